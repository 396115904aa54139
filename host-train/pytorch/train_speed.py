#!/usr/bin/env python3
"""How fast PyTorch trains the network of a preset, in several ways, each in a process of its own.

    cargo xtask bench train --preset fashion --print-task > task.json
    python3 train_speed.py task.json > speeds.json

`cargo xtask bench train --peer` does both and prints the table. A step is what ours is: samples drawn from data on the device,
classes hidden, noise, the weighted loss, its gradient clipped to a norm, AdamW, an average of the weights. A way is named
NETWORK-MODE:PRECISION:

    network    unet: Mote's own (denoiser.py); ddp: denoising-diffusion-pytorch's, of the same widths, without classes
    mode       eager; graph: a whole step captured as one CUDA graph; compile: torch.compile of the loss; compile-graph: both;
               reduce-overhead, max-autotune: torch.compile's modes (the second without its own CUDA graphs)
    precision  f32, tf32, bf16 (autocast), bf16-nhwc (channels last), or best: that of the network's fastest way so far

AdamW is PyTorch's fused one, the average is kept by one foreach call, no loss is read while time is taken. Prints one JSON object
with every way's images a second (median, least and greatest of groups of steps), seconds from the start of its process to the end
of the first step, and memory. Needs torch; `pip install -r tests/peers/requirements.txt` gets what ddp needs.
"""
import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

MODES = ("eager", "graph", "compile", "compile-graph", "reduce-overhead", "max-autotune")
PRECISIONS = ("f32", "tf32", "bf16", "bf16-nhwc")
# In this order: what is dropped when time runs out stands last.
ON_CUDA = ("unet-eager:f32", "unet-eager:tf32", "unet-eager:bf16", "unet-eager:bf16-nhwc", "ddp-eager:f32", "ddp-eager:bf16",
           "unet-graph:best", "unet-compile:bf16-nhwc", "unet-compile-graph:bf16-nhwc", "ddp-compile:bf16",
           "unet-reduce-overhead:bf16-nhwc", "unet-max-autotune:bf16-nhwc")
ON_CPU = ("unet-eager:f32", "ddp-eager:f32", "unet-compile:f32")
NO_TORCH = 3
# Samples that are trained on.
SAMPLES = 4096
# Seconds of a group of steps, at least.
GROUP = 0.1


class Training:
    """One way to train; `step()` does a step and returns its loss, a tensor."""

    def __init__(self, task, way, batch, device):
        import torch
        self.torch, self.task, self.batch, self.device = torch, task, batch, device
        network, mode, precision = split(way)
        torch.manual_seed(1)
        # IEEE f32 unless tf32 is asked for: cuDNN's default is tf32.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        shape, classes = task["network"]["shape"], task["network"]["classes"]
        sides = (shape["channels"], shape["height"], shape["width"])
        self.samples = torch.rand(SAMPLES, *sides, device=device) * 2 - 1
        self.labels = torch.randint(0, classes, (SAMPLES,), device=device)
        self.net, loss = self.own() if network == "unet" else self.ddp(sides)
        self.net.to(device).train()
        if precision == "bf16-nhwc":
            self.net.to(memory_format=torch.channels_last)
            self.samples = self.samples.contiguous(memory_format=torch.channels_last)
        compiled = {"compile": "default", "compile-graph": "default", "max-autotune": "max-autotune-no-cudagraphs",
                    "reduce-overhead": "reduce-overhead"}
        self.loss = torch.compile(loss, mode=compiled[mode]) if mode in compiled else loss
        self.autocast = precision.startswith("bf16")
        self.parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        optimizer, captured = task["optimizer"], mode in ("graph", "compile-graph")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=optimizer["learning_rate"], betas=optimizer["betas"], weight_decay=optimizer["weight_decay"],
            fused=True, capturable=captured)
        self.step = self.capture() if captured else self.plain_step

    def own(self):
        """Mote's network and its loss: the weighted squared error at random timesteps, classes hidden at random."""
        import denoiser
        torch, task, device = self.torch, self.task, self.device
        network = task["network"]
        net = denoiser.build(network)
        numbers = {name: torch.tensor(task[name], device=device, dtype=torch.float32)
                   for name in ("signal", "noise", "target_of_data", "target_of_noise", "weight")}
        timesteps, none = len(task["signal"]), network["classes"]
        features = denoiser.features(range(timesteps), timesteps, net.embedding.length).to(device)

        def loss(samples, labels):
            index = torch.randint(0, timesteps, labels.shape, device=device)
            signal, noise, of_data, of_noise, weight = (numbers[name][index][:, None, None, None] for name in numbers)
            hidden = torch.rand(labels.shape, device=device) < task["class_dropout"]
            eps = torch.randn_like(samples)
            output = net(signal * samples + noise * eps, features[index], labels.masked_fill(hidden, none))
            error = output.float() - (of_data * samples + of_noise * eps)
            return (error * error * weight).mean()

        return net, loss

    def ddp(self, sides):
        """denoising-diffusion-pytorch's network of the same widths, in its own process with its own loss, min-SNR weighted."""
        import denoising_diffusion_pytorch as ddp
        architecture, (channels, height, width) = self.task["network"]["architecture"], sides
        widths, timesteps = architecture["widths"], len(self.task["signal"])
        if any(other % widths[0] for other in widths):
            raise ValueError(f"denoising-diffusion-pytorch's widths are multiples of the first; {widths} are not")
        sizes = {"dim": widths[0], "dim_mults": tuple(other // widths[0] for other in widths), "channels": channels}
        if height == 1:
            net = ddp.Unet1D(**sizes)
            process = ddp.GaussianDiffusion1D(net, seq_length=width, timesteps=timesteps, objective="pred_v")
            return process, lambda samples, _: process(samples[:, :, 0] * 0.5 + 0.5)
        net = ddp.Unet(**sizes)
        process = ddp.GaussianDiffusion(
            net, image_size=(height, width), timesteps=timesteps, objective="pred_v", min_snr_loss_weight=True)
        return process, lambda samples, _: process(samples * 0.5 + 0.5)

    def plain_step(self):
        torch, optimizer = self.torch, self.task["optimizer"]
        index = torch.randint(0, SAMPLES, (self.batch,), device=self.device)
        # The cache of casts saves nothing where each weight is used once, and must be off in a CUDA graph.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            loss = self.loss(self.samples[index], self.labels[index])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, optimizer["clip"], foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - optimizer["ema"])
        # A copy: torch.compile's own CUDA graphs overwrite what they return.
        return loss.detach().clone()

    def capture(self):
        """A step as one CUDA graph, after a few plain ones on a stream of their own, as PyTorch's manual says."""
        torch = self.torch
        if self.device.type != "cuda":
            raise ValueError("a CUDA graph needs a GPU")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self.plain_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.plain_step()

        def replay():
            graph.replay()
            return loss

        return replay

    def wait(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()


def split(way):
    """`unet-compile-graph:bf16` to its three words."""
    name, _, precision = way.partition(":")
    network, _, mode = name.partition("-")
    if network not in ("unet", "ddp") or mode not in MODES or precision not in (*PRECISIONS, "best"):
        raise ValueError(f"{way} is no way to train: give NETWORK-MODE:PRECISION, such as unet-compile:bf16-nhwc")
    return network, mode, precision


def measure(task, way, batch, device, seconds, begun):
    """Trains one way for some seconds."""
    import torch
    device = torch.device(device)
    training = Training(task, way, batch, device)
    loss = training.step()
    training.wait()
    first, warm = time.time() - begun, time.perf_counter()
    count = 0
    while count < 5 or time.perf_counter() - warm < 0.2 * seconds:
        training.step()
        training.wait()
        count += 1
        if count >= 2 and time.perf_counter() - warm > seconds:
            break
    begin = time.perf_counter()
    training.step()
    training.wait()
    steps = max(1, round(GROUP / (time.perf_counter() - begin)))
    rates, end = [], time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(steps):
            loss = training.step()
        training.wait()
        rates.append(batch * steps / (time.perf_counter() - begin))
    loss = loss.item()
    if loss != loss:
        raise ValueError("the loss is not a number")
    return {
        "images_per_second": statistics.median(rates), "least": min(rates), "most": max(rates), "groups": len(rates),
        "steps_per_group": steps, "seconds_to_first_step": first, "memory_bytes": memory(device), "loss": loss,
        "parameters": sum(parameter.numel() for parameter in training.parameters),
    }


def memory(device):
    """Bytes in use on the GPU, the driver's and other programs' included; on the processor this process's greatest."""
    if device.type == "cuda":
        import torch
        free, total = torch.cuda.mem_get_info()
        return total - free
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_apart(arguments, way, limit):
    """A way's measures, or why there are none; measured in another process, ended after `limit` seconds."""
    command = [sys.executable, os.path.abspath(__file__), arguments.task, "--only", way, "--begun", str(time.time()),
               "--device", arguments.device, "--batch", str(arguments.batch), "--seconds", str(arguments.seconds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # The compiler's helpers too.
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return {"way": way, "error": f"not done after {limit:.0f} s"}
    lines = out.strip().splitlines()
    if child.returncode == 0 and lines:
        return {"way": way, **json.loads(lines[-1])}
    # The exception's own line; a compiler's says more after it.
    lines = [line for line in err.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)] or err.strip().splitlines()
    return {"way": way, "error": (lines or [f"status {child.returncode}"])[-1][:300]}


def measure_all(arguments):
    about = "import json, torch; c = torch.cuda.is_available(); print(json.dumps([torch.__version__, torch.version.cuda, " \
            "torch.cuda.get_device_name() if c else None, torch.get_num_threads()]))"
    child = subprocess.run([sys.executable, "-c", about], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{sys.executable} cannot use torch ({last}); install it, or name another Python", file=sys.stderr)
        sys.exit(NO_TORCH)
    version, cuda, gpu, threads = json.loads(child.stdout)
    arguments.device = arguments.device or ("cuda" if gpu else "cpu")
    if arguments.device == "cuda" and not gpu:
        print(f"{sys.executable} has torch {version}, which finds no GPU; give --device cpu", file=sys.stderr)
        sys.exit(1)
    name = gpu if arguments.device == "cuda" else f"{threads} threads"
    ways, results, begun = arguments.ways or (ON_CUDA if arguments.device == "cuda" else ON_CPU), [], time.time()
    for way in ways:
        network, mode, precision = split(way)
        same = [result for result in results if split(result["way"])[0] == network and "error" not in result]
        if precision == "best":
            best = max(same, key=lambda result: result["images_per_second"], default=None)
            way = f"{network}-{mode}:{split(best['way'])[2] if best else 'f32'}"
        left = arguments.budget - (time.time() - begun)
        if left < arguments.seconds:
            result = {"way": way, "error": "no time left; give a greater --budget"}
        else:
            result = run_apart(arguments, way, min(left, arguments.limit))
        results.append(result)
        rate = result.get("error") or f"{result['images_per_second']:.0f} images/s"
        print(f"torch {way}: {rate}", file=sys.stderr, flush=True)
    print(json.dumps({"torch": version, "cuda": cuda, "device": name, "batch": arguments.batch, "ways": results}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="what `mote-train bench --print-task` prints")
    parser.add_argument("--ways", type=lambda text: text.split(","), help="ways to train, separated by commas; default: all that "
                        "are worth it on the device")
    parser.add_argument("--batch", type=int, help="samples a step; default: the task's")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way, after its first steps")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a way is given up, compilation included")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds for all of them; what has no time left is not measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with open(arguments.task, encoding="utf-8") as file:
        task = json.load(file)
    arguments.batch = arguments.batch or task["batch"]
    for way in [arguments.only] if arguments.only else arguments.ways or []:
        try:
            split(way)
        except ValueError as error:
            parser.error(str(error))
    if arguments.only:
        print(json.dumps(measure(task, arguments.only, arguments.batch, arguments.device, arguments.seconds, arguments.begun)))
    else:
        measure_all(arguments)


if __name__ == "__main__":
    main()
