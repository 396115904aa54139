#!/usr/bin/env python3
"""Trains denoising-diffusion-pytorch 2.3.4 on a data set for some seconds and draws samples that `eval` measures.

    cargo xtask data export fashion --out runs/fashion-npy
    python3 tests/peers/train_ddpm_pytorch.py runs/fashion-npy --out runs/ddp --seconds 600 --widths 64,128,128
    cargo xtask eval --samples-file runs/ddp/samples.npy --data fashion --judge judge.safetensors

Images: its class-conditional U-Net and process (`classifier_free_guidance`), drawn with guidance. Signals: its `Unet1D` and
`GaussianDiffusion1D`, which know no classes: read the Frechet distance alone. Optimizer, average of the weights and process are its
own defaults (Adam of rate 1e-4, gradients clipped to 1, an average of decay 0.995 every 10 steps, 1000 timesteps of the cosine
schedule); what is not, is an option here. Data stay on the device, samples are not mirrored, its Inception score is left out. On a GPU
it computes in bf16 (autocast) and tf32.

A stopped or finished run goes on with the same command and a greater --seconds, of which the first step (compilation) is not
counted. Files in the folder: state.pt, loss.csv (of held-out samples by timestep: the mean squared error of v, drawn from the
averaged network), samples.npy and labels.npy (sample i has class i modulo their number), report.json.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

try:
    import numpy
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D, classifier_free_guidance
    from ema_pytorch import EMA
except ImportError as missing:
    sys.exit(f"{missing}; `{sys.executable} -m pip install torch -r tests/peers/requirements.txt` installs it")

# Seconds between two saved states.
SAVE_EVERY = 30
NOISE_LEVELS = 10


class Data:
    """An exported side, on the device: `values` as the library takes them, 0 to 1, [n, channels, height, width] or [n, channels, length]."""

    def __init__(self, folder, device):
        samples = numpy.load(folder / "samples.npy")
        labels = numpy.load(folder / "labels.npy")
        self.pixels = samples.dtype == numpy.uint8
        self.shape, self.signal = samples.shape[1:], samples.shape[1] == 1
        values = torch.from_numpy(samples).permute(0, 3, 1, 2).contiguous().to(device)
        values = values.float() / 255 if self.pixels else values * 0.5 + 0.5
        self.values = values[:, :, 0] if self.signal else values
        self.labels = torch.from_numpy(labels.astype(numpy.int64)).to(device)
        self.classes = len((folder / "classes.txt").read_text(encoding="utf-8").splitlines())


class Peer:
    """The library's network and process; with the same calls for images with classes and signals without."""

    def __init__(self, data, arguments):
        height, width, channels = data.shape
        widths, self.signal = arguments.widths, data.signal
        if any(other % widths[0] for other in widths):
            sys.exit(f"--widths {widths}: its widths are multiples of the first")
        if not self.signal and height != width:
            sys.exit(f"its class-conditional process draws square images, and these are {height}x{width}")
        sizes = {"dim": widths[0], "dim_mults": tuple(other // widths[0] for other in widths), "channels": channels}
        process = {"timesteps": 1000, "sampling_timesteps": arguments.steps, "objective": arguments.objective}
        if arguments.eta is not None:
            process["ddim_sampling_eta"] = arguments.eta
        if self.signal:
            self.net = Unet1D(**sizes)
            self.process = GaussianDiffusion1D(self.net, seq_length=width, **process)
        else:
            self.net = classifier_free_guidance.Unet(num_classes=data.classes, cond_drop_prob=arguments.class_dropout, **sizes)
            self.process = classifier_free_guidance.GaussianDiffusion(
                self.net, image_size=height, min_snr_loss_weight=arguments.min_snr, **process)

    def loss(self, values, labels):
        return self.process(values) if self.signal else self.process(values, classes=labels)

    def sample(self, process, labels, guidance):
        if self.signal:
            return process.sample(batch_size=len(labels))
        # A scale of exactly 1 ends in a ValueError there.
        return process.sample(labels, cond_scale=guidance if guidance != 1 else 1 + 1e-6)

    def error_of_v(self, process, values, labels, timestep):
        """The mean squared error of v = signal * noise - deviation * data at one timestep."""
        clean, times = values * 2 - 1, torch.full((len(values),), timestep, device=values.device)
        alpha_bar = process.alphas_cumprod[timestep]
        signal, deviation = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noise = torch.randn_like(clean)
        x = signal * clean + deviation * noise
        output = process.model(x, times) if self.signal else process.model(x, times, labels, cond_drop_prob=0.0)
        said = {"pred_v": lambda: output, "pred_noise": lambda: (output - deviation * x) / signal,
                "pred_x0": lambda: (signal * x - output) / deviation}[process.objective]()
        return ((said - (signal * noise - deviation * clean)) ** 2).mean().item()


def train(peer, ema, optimizer, data, arguments, state_file, device):
    """Trains until `--seconds` are full; returns the seconds, the steps and the mean of the last losses."""
    done = {"seconds": 0.0, "steps": 0, "loss": None}
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        if state["recipe"] != recipe(arguments):
            sys.exit(f"{state_file} is of another recipe ({state['recipe']}); give another --out")
        peer.process.load_state_dict(state["process"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        torch.manual_seed(arguments.seed + state["done"]["steps"])
        done = state["done"]

    def save():
        partial = state_file.with_suffix(".partial")
        torch.save({"process": peer.process.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(), "done": done,
                    "recipe": recipe(arguments)}, partial)
        partial.replace(state_file)

    def step():
        index = torch.randint(0, len(data.values), (arguments.batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            loss = peer.loss(data.values[index], data.labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.process.parameters(), 1.0)
        optimizer.step()
        ema.update()
        return loss.detach()

    if done["seconds"] >= arguments.seconds:
        return done
    if arguments.compile:
        peer.net.compile()
    peer.process.train()
    # Compiles.
    step().item()
    before, begun = done["seconds"], time.perf_counter()
    saved, told, losses = begun, begun, []
    done["steps"] += 1
    while done["seconds"] < arguments.seconds:
        losses.append(step())
        done["steps"] += 1
        if len(losses) == 50 or device.type == "cpu":
            # Waits for the device, so that the clock is true.
            done["loss"] = torch.stack(losses).mean().item()
            losses = []
            if done["loss"] != done["loss"]:
                sys.exit(f"the loss is not a number after {done['steps']} steps; {state_file} is from before")
            now = time.perf_counter()
            done["seconds"] = before + now - begun
            if now - told > 10:
                told = now
                print(f"{done['seconds']:.0f} of {arguments.seconds:.0f} s, {done['steps']} steps, loss {done['loss']:.4f}", file=sys.stderr)
            if now - saved > SAVE_EVERY:
                save()
                # Saving is not training.
                saved = time.perf_counter()
                begun += saved - now
    save()
    return done


def recipe(arguments):
    """What must be the same for a run to go on."""
    names = ("widths", "batch", "objective", "min_snr", "class_dropout", "learning_rate", "seed")
    return json.dumps({name: getattr(arguments, name) for name in names})


@torch.no_grad()
def draw(peer, process, classes, arguments, device):
    """All samples, as the library gives them: 0 to 1."""
    torch.manual_seed(arguments.seed)
    labels, parts = torch.arange(arguments.samples, device=device) % classes, []
    for part in labels.split(arguments.sample_batch):
        parts.append(peer.sample(process, part, arguments.guidance).float().cpu())
        print(f"{sum(map(len, parts))} of {arguments.samples} samples", file=sys.stderr)
    values = torch.cat(parts).numpy()
    if not numpy.isfinite(values).all():
        # With few steps and noise, the root of 1 - alpha_next - sigma^2 is one of a number below zero.
        sys.exit("its sampler drew values that are not finite; give more --steps, or --eta 0")
    return values, labels.cpu().numpy()


@torch.no_grad()
def losses_by_timestep(peer, process, data, count):
    torch.manual_seed(0)
    spread = torch.linspace(0, len(data.values) - 1, min(count, len(data.values)), device=data.values.device).long()
    values, labels = data.values[spread], data.labels[spread]
    timesteps = [int((level + 0.5) / NOISE_LEVELS * process.num_timesteps) for level in range(NOISE_LEVELS)]
    return [(timestep, peer.error_of_v(process, values, labels, timestep)) for timestep in timesteps]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that `cargo xtask data export` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training in all")
    parser.add_argument("--widths", type=lambda text: [int(width) for width in text.split(",")], default=[64, 128, 256])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--objective", choices=("pred_v", "pred_noise", "pred_x0"), default="pred_v")
    parser.add_argument("--min-snr", action="store_true", help="min-SNR weights (images)")
    parser.add_argument("--class-dropout", type=float, default=0.5, help="how often a class is hidden (images)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network for training")
    parser.add_argument("--samples", type=int, default=1000, help="0 for none")
    parser.add_argument("--steps", type=int, default=250, help="of DDIM")
    parser.add_argument("--eta", type=float, help="noise of DDIM; its default is 1 for images, 0 for signals")
    parser.add_argument("--guidance", type=float, default=1.5, help="1 is none (images)")
    parser.add_argument("--sample-batch", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    arguments = parser.parse_args()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    arguments.bf16 = device.type == "cuda"
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        data, held_out = Data(arguments.data / "train", device), Data(arguments.data / "held-out", device)
    except OSError as error:
        sys.exit(f"{error}; `cargo xtask data export NAME --out {arguments.data}` writes it")
    peer = Peer(data, arguments)
    peer.process.to(device)
    optimizer = torch.optim.Adam(peer.process.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.99))
    ema = EMA(peer.process, beta=0.995, update_every=10).to(device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = train(peer, ema, optimizer, data, arguments, arguments.out / "state.pt", device)
    process = ema.ema_model.eval()
    losses = losses_by_timestep(peer, process, held_out, 500)
    (arguments.out / "loss.csv").write_text("timestep,error_of_v\n" + "".join(f"{at},{loss}\n" for at, loss in losses), encoding="utf-8")
    begun = time.perf_counter()
    if arguments.samples:
        values, labels = draw(peer, process, data.classes, arguments, device)
        values = values[:, :, None] if data.signal else values
        values = values.transpose(0, 2, 3, 1)
        values = (values * 255).round().clip(0, 255).astype(numpy.uint8) if data.pixels else (values * 2 - 1).astype("<f4")
        numpy.save(arguments.out / "samples.npy", numpy.ascontiguousarray(values))
        numpy.save(arguments.out / "labels.npy", labels.astype(numpy.uint16))
    report = {
        "command": " ".join(sys.argv), "torch": torch.__version__, "recipe": json.loads(recipe(arguments)), **done,
        "images_per_second": done["steps"] * arguments.batch / max(done["seconds"], 1e-9),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "parameters": sum(parameter.numel() for parameter in peer.net.parameters()),
        "samples": arguments.samples, "sampling_steps": arguments.steps, "guidance": None if data.signal else arguments.guidance,
        "sampling_seconds": time.perf_counter() - begun, "error_of_v": dict(losses),
    }
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
