#!/usr/bin/env python3
"""Outputs, losses, gradients and a training step of denoisers in PyTorch, in double precision, for host-train/tests/pytorch.rs.

    pip install -r tests/golden/requirements.txt
    python3 tests/golden/denoisers.py             # writes denoisers.txt and denoiser.safetensors; --check says whether they are up to date

The networks are host-train/pytorch/denoiser.py's. All numbers that go in are formulas. Element i (from 0) of a parameter is
`0.3 sin(0.37 i + k)`, k the sum of the bytes of its name in PyTorch; of a normalization's weight, 1 more. Noised samples: data
`0.8 sin(0.53 i + 1)`, noise `1.3 cos(0.91 i)`, extra channels `sin(0.29 i)`. The objective is v, the process has 1000 timesteps of the cosine
schedule, the loss is the squared error weighted by min-SNR with gamma 5, the weights' mean 1 over all timesteps; of a network with a second
output, of its first.

After `case` its name; `network` as a file's description has it. `output`: all values. `step`: loss, norm of all gradients, and
AdamW's settings: learning rate, both betas, weight decay, greatest norm. Then a line for each parameter: its name; the norm of its clipped
gradient; the sum of that gradient times `cos(i)`; and, unless it is all noise, the element with the greatest gradient: its index, its
clipped gradient, and what one step adds to it, as a multiple of the learning rate.

`saved`: the output of the network of `denoiser.safetensors`, a file for `mote-train weights import`: the first vector network after its step.

`adamw`: four parameters that begin as 1, -2, 3, -4, after each of six steps with the same settings and gradients `(i + 1) sin(1.3 k + 0.7 i)`
at step k.
"""
import json
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "host-train" / "pytorch"))
from denoiser import build, extra_channels, features, load, save  # noqa: E402
from golden import write_or_check  # noqa: E402

TIMESTEPS, LABELS, GAMMA = [0, 500, 985], [2, 0, 3], 5.0
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 0.01, 1.0
# A gradient below this is noise in single precision, and Adam's direction then too.
LEAST = 1e-5


def image(**settings):
    unet = dict(kind="unet", widths=[4, 8], blocks=1, middle=1, groups=2, embedding=8)
    return dict(shape=dict(height=6, width=4, channels=1), classes=3, architecture={**unet, **settings})


def cases():
    yield "image", image(attention=[1], heads=2)
    yield "deep image", {**image(widths=[4, 4, 8], blocks=2, middle=2, attention=[0, 2]), "shape": dict(height=4, width=8, channels=3)}
    yield "signal", {**image(attention=[1], heads=2), "shape": dict(height=1, width=12, channels=2)}
    yield "learned variance", {**image(), "output": "mean_and_variance"}
    yield "conditioned", {**image(), "self_conditioning": True, "condition_channels": 2}
    mlp = dict(kind="mlp", width=12, blocks=2, groups=1, embedding=8)
    yield "vector", dict(shape=dict(height=1, width=1, channels=5), classes=3, architecture=mlp)
    yield "vector of groups", {**dict(shape=dict(height=1, width=1, channels=2), classes=3, architecture={**mlp, "groups": 3}),
                               "output": "mean_and_variance"}


def elements(shape, of):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return of(index).reshape(shape)


def alpha_bars():
    """The cosine schedule of Nichol and Dhariwal, 2021."""
    curve = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    betas = torch.tensor([min(1 - curve[i + 1] / curve[i], 0.999) for i in range(1000)], dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


def weights(bars):
    """`min(snr, gamma)` on the squared error of the data is `min(snr, gamma) / (snr + 1)` on that of v (Hang et al., 2023)."""
    snr = bars / (1 - bars)
    weight = snr.clamp(max=GAMMA) / (snr + 1)
    return weight / weight.mean()


def batch(network):
    """Data and noise, `[3, channels, height, width]`, and the extra channels."""
    sides = (network["shape"]["height"], network["shape"]["width"])
    shape, extra = (3, network["shape"]["channels"], *sides), extra_channels(network)
    data, noise = elements(shape, lambda i: 0.8 * torch.sin(0.53 * i + 1)), elements(shape, lambda i: 1.3 * torch.cos(0.91 * i))
    return data, noise, elements((3, extra, *sides), lambda i: torch.sin(0.29 * i))


def forward(net, network):
    """The output for the batch, and what it should be."""
    data, noise, extra = batch(network)
    bars = alpha_bars()[TIMESTEPS][:, None, None, None]
    signal, deviation = bars.sqrt(), (1 - bars).sqrt()
    x = torch.cat([signal * data + deviation * noise, extra], 1)
    time = features(TIMESTEPS, 1000, net.embedding.length, torch.float64)
    return net(x, time, torch.tensor(LABELS)), signal * noise - deviation * data


def lines_of(name, network):
    net = build(network).double()
    state = dict(net.named_parameters())
    with torch.no_grad():
        for key, parameter in state.items():
            phase, middle = sum(key.encode()), "norm" in key and key.endswith("weight")
            parameter.copy_(elements(parameter.shape, lambda i: 0.3 * torch.sin(0.37 * i + phase)) + middle)

    output, target = forward(net, network)
    weight = weights(alpha_bars())[TIMESTEPS][:, None, None, None]
    loss = (weight * (output[:, :target.shape[1]] - target) ** 2).mean()
    loss.backward()
    output, loss = output.detach(), loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    before = {name: parameter.detach().clone() for name, parameter in state.items()}
    adamw(net.parameters()).step()

    yield f"case {name}"
    yield f"network {json.dumps(network)}"
    yield " ".join(["output", *map(number, output.flatten())])
    yield " ".join(["step", *map(number, [loss, norm, LEARNING_RATE, *BETAS, WEIGHT_DECAY, CLIP])])
    for key, parameter in state.items():
        gradient, added = parameter.grad.flatten(), ((parameter.detach() - before[key]) / LEARNING_RATE).flatten()
        projection = (gradient * torch.cos(torch.arange(len(gradient), dtype=torch.float64))).sum()
        words = ["parameter", key, number(gradient.norm()), number(projection)]
        greatest = int(gradient.abs().argmax())
        if gradient[greatest].abs() > LEAST:
            words += [str(greatest), number(gradient[greatest]), number(added[greatest])]
        yield " ".join(words)
    if name == "vector":
        yield from exchange(net, network)


def exchange(net, network):
    """Writes the network, unless asked to check, and gives the output of what the file then holds."""
    path = Path(__file__).with_name("denoiser.safetensors")
    if "--check" not in sys.argv:
        diffusion = dict(objective="v", timesteps=1000, schedule=dict(kind="cosine", offset=0.008))
        save(path, net, dict(network=network, diffusion=diffusion, steps=4, guidance=1.0))
    loaded, description = load(path)
    output, _ = forward(loaded.double(), description["network"])
    yield " ".join(["saved", *map(number, output.detach().flatten())])


def adamw(parameters):
    return torch.optim.AdamW(parameters, LEARNING_RATE, BETAS, eps=1e-8, weight_decay=WEIGHT_DECAY)


def six_steps():
    parameter = torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=torch.float64, requires_grad=True)
    index, optimizer, values = torch.arange(4, dtype=torch.float64), adamw([parameter]), []
    for step in range(6):
        parameter.grad = (index + 1) * torch.sin(1.3 * step + 0.7 * index)
        torch.nn.utils.clip_grad_norm_([parameter], CLIP)
        optimizer.step()
        values += parameter.detach().tolist()
    yield " ".join(["adamw", *map(number, values)])


def number(value):
    return f"{float(value):.7g}"


def main():
    header = f"# made by tests/golden/denoisers.py with torch {torch.__version__}"
    lines = [header, *six_steps(), *(line for name, network in cases() for line in lines_of(name, network))]
    write_or_check(Path(__file__).with_name("denoisers.txt"), lines)


if __name__ == "__main__":
    main()
