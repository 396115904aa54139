"""Mote's denoisers in PyTorch, written from the formulas of `mote_train::denoiser::{unet, mlp}`, and the files of `mote-train weights`.

    cargo xtask weights export --run runs/mine --out mine.safetensors

    net, description = load("mine.safetensors")
    output = net(x, features(timesteps, 1000, net.embedding.length), classes)
    save("changed.safetensors", net, description)

    cargo xtask weights import --run runs/changed --weights changed.safetensors

`x` and `output` are `[batch, channels, height, width]`, values about -1 to 1; `classes` counts from 0, the number of classes meaning
none. A file's `description` is the JSON under its metadata key `denoiser`. Needs torch and safetensors.
"""
import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, silu

GROUP_NORM_EPSILON = 1e-5
MAX_PERIOD = 10_000.0


def features(timesteps, count, length, dtype=torch.float32):
    """`[batch, length]`: cosines, then sines of the timesteps of `count`, counted as if there were 1000."""
    half = length // 2
    periods = MAX_PERIOD ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.as_tensor(timesteps, dtype=torch.float64)[:, None] * 1000 / count * periods
    return torch.cat([angles.cos(), angles.sin()], 1).to(dtype)


class Embedding(nn.Module):
    """From timestep and class to what every block's scale and shift are made of."""

    def __init__(self, length, classes):
        super().__init__()
        self.length = length
        self.time_in, self.time_out = nn.Linear(length, length), nn.Linear(length, length)
        self.register_parameter("class", nn.Parameter(torch.zeros(classes + 1, length)))

    def forward(self, time, label):
        return silu(self.time_out(silu(self.time_in(time))) + getattr(self, "class")[label])


class Norm(nn.GroupNorm):
    def __init__(self, channels, groups):
        super().__init__(groups, channels, eps=GROUP_NORM_EPSILON)

    def scaled(self, x, affine):
        """With scale and shift, `[batch, 2 channels]`, after it."""
        scale, shift = affine[:, :, None, None].chunk(2, 1)
        return self(x) * (1 + scale) + shift


class Conv(nn.Conv2d):
    """3x3 with zeros around, 1x3 for signals; `halving` leaves out every other pixel, of a signal along its width."""

    def __init__(self, inputs, outputs, signal, halving=False):
        rows = 1 if signal else 3
        stride = ((1 if signal else 2), 2) if halving else 1
        super().__init__(inputs, outputs, (rows, 3), stride, padding=(rows // 2, 1))


class Attention(nn.Module):
    def __init__(self, channels, groups, heads):
        super().__init__()
        self.heads = heads
        self.norm = Norm(channels, groups)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        q, k, v = (part.unflatten(1, (self.heads, -1)).flatten(3) for part in self.qkv(self.norm(x)).chunk(3, 1))
        weights = torch.softmax(q.transpose(2, 3) @ k / q.shape[2] ** 0.5, 3)
        return x + self.out((v @ weights.transpose(2, 3)).reshape(x.shape))


class Block(nn.Module):
    """A residual block; with `joined` it reads a skip beside its input, but adds to its input alone."""

    def __init__(self, config, level, signal, joined=False):
        super().__init__()
        width, groups, parts = config["widths"][level], config["groups"], 1 + joined
        self.norm1, self.conv1 = Norm(parts * width, parts * groups), Conv(parts * width, width, signal)
        self.affine = nn.Linear(config["embedding"], 2 * width)
        self.norm2, self.conv2 = Norm(width, groups), Conv(width, width, signal)
        self.dropout = nn.Dropout(config.get("dropout", 0))
        self.attention = Attention(width, groups, config.get("heads", 1)) if level in config.get("attention", []) else None

    def forward(self, x, embedding, skip=None):
        h = self.conv1(silu(self.norm1(x if skip is None else torch.cat([x, skip], 1))))
        h = silu(self.norm2.scaled(h, self.affine(embedding)))
        x = x + self.conv2(self.dropout(h))
        return x if self.attention is None else self.attention(x)


class Level(nn.Module):
    """The blocks of a level, and the convolution that leads there (`up`) or on (`down`)."""

    def __init__(self, config, level, signal, name, inputs, outputs):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config, level, signal, joined=name == "up" and i == 0) for i in range(config["blocks"]))
        setattr(self, name, Conv(inputs, outputs, signal, halving=name == "down"))


class UNet(nn.Module):
    def __init__(self, config, inputs, outputs, classes, signal):
        super().__init__()
        widths = config["widths"]
        pairs = list(enumerate(zip(widths, widths[1:])))
        self.embedding = Embedding(config["embedding"], classes)
        self.conv_in = Conv(inputs, widths[0], signal)
        self.down = nn.ModuleList(Level(config, i, signal, "down", fine, coarse) for i, (fine, coarse) in pairs)
        self.middle = nn.ModuleList(Block(config, len(widths) - 1, signal) for _ in range(config["middle"]))
        self.up = nn.ModuleList(Level(config, i, signal, "up", coarse, fine) for i, (fine, coarse) in reversed(pairs))
        self.norm_out = Norm(widths[0], config["groups"])
        self.conv_out = Conv(widths[0], outputs, signal)

    def forward(self, x, time, label):
        embedding = self.embedding(time, label)
        h, skips = self.conv_in(x), []
        for level in self.down:
            for block in level.blocks:
                h = block(h, embedding)
            skips.append(h)
            h = level.down(h)
        for block in self.middle:
            h = block(h, embedding)
        for level in self.up:
            skip = skips.pop()
            h = level.up(interpolate(h, size=skip.shape[2:], mode="nearest"))
            for i, block in enumerate(level.blocks):
                h = block(h, embedding, skip if i == 0 else None)
        return self.conv_out(silu(self.norm_out(h)))


class MlpBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, groups = config["width"], config.get("groups", 1)
        self.norm1, self.linear1 = Norm(width, groups), nn.Linear(width, width)
        self.affine = nn.Linear(config["embedding"], 2 * width)
        self.norm2, self.linear2 = Norm(width, groups), nn.Linear(width, width)
        self.dropout = nn.Dropout(config.get("dropout", 0))

    def forward(self, x, embedding):
        h = pixel(self.linear1, silu(self.norm1(x)))
        return x + pixel(self.linear2, self.dropout(silu(self.norm2.scaled(h, self.affine(embedding)))))


def pixel(linear, x):
    """A layer on `[batch, in, 1, 1]`."""
    return linear(x[:, :, 0, 0])[:, :, None, None]


class Mlp(nn.Module):
    def __init__(self, config, inputs, outputs, classes):
        super().__init__()
        self.embedding = Embedding(config["embedding"], classes)
        self.linear_in = nn.Linear(inputs, config["width"])
        self.blocks = nn.ModuleList(MlpBlock(config) for _ in range(config["blocks"]))
        self.norm_out = Norm(config["width"], config.get("groups", 1))
        self.linear_out = nn.Linear(config["width"], outputs)

    def forward(self, x, time, label):
        embedding, h = self.embedding(time, label), pixel(self.linear_in, x)
        for block in self.blocks:
            h = block(h, embedding)
        return pixel(self.linear_out, silu(self.norm_out(h)))


def extra_channels(network):
    """Channels of the input beside the sample's: the network's own estimate, then a given image."""
    return network["shape"]["channels"] * bool(network.get("self_conditioning")) + network.get("condition_channels", 0)


def build(network):
    """The network that a file's description names under `network`."""
    channels, architecture = network["shape"]["channels"], network["architecture"]
    inputs = channels + extra_channels(network)
    outputs = channels * (2 if network.get("output") == "mean_and_variance" else 1)
    if architecture["kind"] == "mlp":
        return Mlp(architecture, inputs, outputs, network["classes"])
    return UNet(architecture, inputs, outputs, network["classes"], signal=network["shape"]["height"] == 1)


def load(path):
    """The network of a file that `weights export` wrote, and the file's description."""
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["denoiser"])
        state = {name: file.get_tensor(name) for name in file.keys()}
    net = build(description["network"])
    net.load_state_dict(state)
    return net, description


def save(path, net, description):
    """Writes a file for `weights import`."""
    tensors = {name: values.float().contiguous() for name, values in net.state_dict().items()}
    save_file(tensors, path, {"denoiser": json.dumps(description)})
