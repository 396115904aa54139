"""Mote's denoisers in PyTorch, written from the formulas of `mote_train::denoiser::{unet, mlp}`, and their safetensors files.

    net, description = load("runs/mine/teacher.safetensors")
    output = net(x, features(timesteps, 1000, net.embedding.length), classes)
    save("changed.safetensors", net, description)

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

    def __init__(self, config, level, joined=False):
        super().__init__()
        width, groups, parts = config["widths"][level], config["groups"], 1 + joined
        self.norm1, self.conv1 = Norm(parts * width, parts * groups), nn.Conv2d(parts * width, width, 3, padding=1)
        self.affine = nn.Linear(config["embedding"], 2 * width)
        self.norm2, self.conv2 = Norm(width, groups), nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(config.get("dropout", 0))
        self.attention = Attention(width, groups, config.get("heads", 1)) if level in config.get("attention", []) else None

    def forward(self, x, embedding, skip=None):
        h = self.conv1(silu(self.norm1(x if skip is None else torch.cat([x, skip], 1))))
        h = silu(self.norm2.scaled(h, self.affine(embedding)))
        x = x + self.conv2(self.dropout(h))
        return x if self.attention is None else self.attention(x)


class Level(nn.Module):
    """The blocks of a level, and the convolution that leads there (`up`) or on (`down`)."""

    def __init__(self, config, level, name, inputs, outputs, stride):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, level, joined=name == "up" and i == 0) for i in range(config["blocks"]))
        setattr(self, name, nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1))


class UNet(nn.Module):
    def __init__(self, config, inputs, outputs, classes):
        super().__init__()
        widths = config["widths"]
        pairs = list(enumerate(zip(widths, widths[1:])))
        self.embedding = Embedding(config["embedding"], classes)
        self.conv_in = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Level(config, i, "down", fine, coarse, 2) for i, (fine, coarse) in pairs)
        self.middle = nn.ModuleList(Block(config, len(widths) - 1) for _ in range(config["middle"]))
        self.up = nn.ModuleList(Level(config, i, "up", coarse, fine, 1) for i, (fine, coarse) in reversed(pairs))
        self.norm_out = Norm(widths[0], config["groups"])
        self.conv_out = nn.Conv2d(widths[0], outputs, 3, padding=1)

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
    kind = {"unet": UNet, "mlp": Mlp}[architecture["kind"]]
    return kind(architecture, inputs, outputs, network["classes"])


def names(net):
    """Of each parameter, in order: its name in a file, its name here, whether the file has it transposed."""
    for name, module in net.named_modules():
        for own, _ in module.named_parameters(recurse=False):
            in_file = "gain" if isinstance(module, Norm) and own == "weight" else own
            path = f"{name}." if name else ""
            yield path + in_file, path + own, isinstance(module, nn.Linear) and own == "weight"


def load(path):
    """The network of a file, and the file's description."""
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["denoiser"])
        net = build(description["network"])
        state = {here: file.get_tensor(name).T if turned else file.get_tensor(name) for name, here, turned in names(net)}
    net.load_state_dict(state)
    return net, description


def save(path, net, description):
    """Writes a file that `mote-train` reads."""
    state = net.state_dict()
    tensors = {name: (state[here].T if turned else state[here]).float().contiguous() for name, here, turned in names(net)}
    save_file(tensors, path, {"denoiser": json.dumps(description)})
