#!/usr/bin/env python3
"""Schedules, posteriors and trajectories of diffusers' schedulers on a network that anyone can compute, for tests/tests/schedulers.rs.

    pip install -r tests/golden/requirements.txt
    python3 tests/golden/schedulers.py            # writes tests/golden/schedulers.txt; --check says whether it is up to date

Each line: a name, a number of steps, then values. Of a trajectory, the states after each network pass, as amplitudes of the
variance-preserving process; the network's output is `0.3 sin(3 x) + x (0.2 + t / 2000)` at timestep t of 1000, whatever it stands for, and
the noise that pass i adds is `1.4 sin(12.9 i + 1)`.
"""
import math
import sys
import warnings
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers import (
    DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler, LCMScheduler, RePaintScheduler, ScoreSdeVeScheduler)
from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from golden import write_or_check

warnings.filterwarnings("ignore")
diffusers.utils.logging.set_verbosity_error()

T, START = 1000, 0.8
LINEAR = dict(num_train_timesteps=T, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)
# Timesteps of the tables of coefficients.
SOME = range(1, T, 37)


def network(x, t):
    return 0.3 * torch.sin(3 * x) + x * (0.2 + t / 2000)


def line(name, steps, values):
    return " ".join([name, str(steps), *(f"{float(value):.9f}" for value in values)])


def number(*values):
    """`[1, values]` in double precision."""
    return torch.tensor([[float(value) for value in values]], dtype=torch.float64)


def signal(sigma):
    """Amplitude of the data where the noise is `sigma` times as large."""
    return 1 / (sigma**2 + 1) ** 0.5


class Noise:
    """Stands in for `randn_tensor` in diffusers' modules: gives `value`."""

    def __init__(self, *schedulers):
        for scheduler in schedulers:
            sys.modules[scheduler.__module__].randn_tensor = self
        self.value = number(0)

    def __call__(self, *_, **__):
        return self.value

    def of_pass(self, index):
        self.value = number(1.4 * math.sin(12.9 * index + 1))


NOISE = Noise(DDPMScheduler, DDIMScheduler, LCMScheduler, RePaintScheduler, ScoreSdeVeScheduler, KarrasVeScheduler)


def exact(scheduler):
    """Double precision where the scheduler keeps its own products."""
    scheduler.alphas_cumprod, scheduler.betas, scheduler.alphas = ALPHA_BARS, BETAS, 1 - BETAS
    return scheduler


def run(name, steps, scheduler, **settings):
    """A scheduler whose state is the variance-preserving process's; of a thousand steps every 37th."""
    x, states = number(START), []
    for index, t in enumerate(scheduler.timesteps):
        NOISE.of_pass(index)
        x = scheduler.step(network(x, t), t, x, **settings).prev_sample
        states.append(x)
    return line(name, steps, states[::37] if steps == T else states)


def ddpm(name, steps, **settings):
    scheduler = exact(DDPMScheduler(**LINEAR, **{"clip_sample": False, **settings}))
    scheduler.set_timesteps(steps)
    return run(name, steps, scheduler)


def ddim(name, steps, eta=0.0, clipped=False, **settings):
    scheduler = DDIMScheduler(**LINEAR, clip_sample=clipped, set_alpha_to_one=True, **settings)
    if settings.get("rescale_betas_zero_snr"):
        scheduler.alphas_cumprod = torch.cumprod(1 - rescale_zero_terminal_snr(BETAS), 0)
    else:
        exact(scheduler)
    scheduler.set_timesteps(steps)
    return run(name, steps, scheduler, eta=eta, use_clipped_model_output=clipped)


def dpm(name, steps, **settings):
    scheduler = exact(DPMSolverMultistepScheduler(**LINEAR, timestep_spacing="trailing", final_sigmas_type="zero", **settings))
    scheduler.set_timesteps(steps)
    return run(name, steps, scheduler)


def in_sigmas(name, steps, scheduler):
    """Schedulers whose state is x / signal."""
    scheduler = exact(scheduler)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    x, states = number(START) / signal(sigmas[0]), []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(network(x * signal(sigmas[i]), t), t, x).prev_sample
        states.append(x * signal(sigmas[i + 1]))
    return line(name, steps, states)


def trailing(steps):
    """Timesteps and their sigmas, zero at the end."""
    timesteps = [round(T * (steps - i) / steps) - 1 for i in range(steps)]
    sigmas = [float(((1 - ALPHA_BARS[t]) / ALPHA_BARS[t]) ** 0.5) for t in timesteps]
    return timesteps, sigmas + [0.0]


def churn(steps, gamma):
    """EDM's algorithm 2 with Euler steps by the scheduler of Karras et al.'s sampler; the network sees the noise after the churn. What
    the network is asked for is the noise: this scheduler wants its negative."""
    scheduler = KarrasVeScheduler(s_noise=1, s_churn=gamma * steps, s_min=0, s_max=1e9)
    scheduler.num_inference_steps = steps
    timesteps, sigmas = trailing(steps)
    x, states = number(START) / signal(sigmas[0]), []
    for i, t in enumerate(timesteps):
        # The noise before the churn of the step after this one; the last step ends at the data.
        below = sigmas[i + 1] / (1 + gamma)
        NOISE.of_pass(i)
        x = scheduler.step(-network(x * signal(sigmas[i]), t), sigmas[i], below, x).prev_sample
        if below > 0:
            x, hat = scheduler.add_noise_to_input(x, below)
            assert abs(hat - sigmas[i + 1]) < 1e-12
        states.append(x * signal(sigmas[i + 1]))
    return line("churn-trailing", steps, states)


def flow(steps):
    """Euler's method on the straight path `(1 - s) x0 + s eps`, whose velocity the network gives; the network sees the variance-
    preserving state at the same ratio of noise and data."""
    timesteps, sigmas = trailing(steps)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
    scheduler.set_timesteps(sigmas=[s / (1 + s) for s in sigmas[:-1]])
    times = scheduler.sigmas.double()
    total = [signal(s) * (1 + s) for s in sigmas]
    y, states = number(START) / total[0], []
    for i, t in enumerate(timesteps):
        assert abs(times[i] - sigmas[i] / (1 + sigmas[i])) < 1e-6
        y = scheduler.step(network(y * total[i], t), scheduler.timesteps[i], y, return_dict=False)[0]
        states.append(y * total[i + 1])
    return line("flow-euler-trailing", steps, states)


def consistency(steps):
    """Multistep consistency sampling; the boundary's skip is made to vanish, as our networks have none."""
    scheduler = exact(LCMScheduler(**LINEAR, timestep_scaling=1e9, clip_sample=False, prediction_type="sample"))
    scheduler.set_timesteps(timesteps=trailing(steps)[0], original_inference_steps=T)
    return run("consistency-trailing", steps, scheduler)


def langevin():
    """One corrector step of Song et al.'s algorithm 5 at some noise levels. The scheduler measures the norms of score and noise; the
    output and the noise are given those of a perfect score."""
    scheduler, states = ScoreSdeVeScheduler(snr=0.16), []
    scheduler.set_timesteps(10)
    output, NOISE.value = number(0.6, 0.8), number(0.8, -0.6)
    for t in SOME:
        sigma = ((1 - ALPHA_BARS[t]) / ALPHA_BARS[t]) ** 0.5
        x = scheduler.step_correct(-output / sigma, number(START, -0.3) / signal(sigma)).prev_sample
        states += list(x[0] * signal(sigma))
    return line("langevin-correction", len(SOME), states)


def repaint(steps):
    """RePaint without going back: a value of 0.5 is known, one is not. The states are those of the unknown and of the known."""
    scheduler = exact(RePaintScheduler(**LINEAR, clip_sample=False, eta=1.0))
    scheduler.num_inference_steps, scheduler.eta = steps, 1.0
    x, states = number(START, START), []
    for index in range(steps):
        NOISE.of_pass(index)
        t = T // steps * (steps - 1 - index)
        x = scheduler.step(network(x, t), t, x, number(0, 0.5), number(0, 1)).prev_sample
        states += list(x[0])
    return line("repaint-leading", steps, states)


def schedules():
    yield line("alpha-bar-linear", T, ALPHA_BARS[::37])
    for name, kind in (("cosine", "squaredcos_cap_v2"), ("sigmoid", "sigmoid")):
        scheduler = DDPMScheduler(**{**LINEAR, "beta_schedule": kind})
        yield line(f"beta-{name}", T, scheduler.betas[::37])
    yield line("alpha-bar-zero-snr", T, torch.cumprod(1 - rescale_zero_terminal_snr(BETAS), 0)[::37])
    yield line("log-snr", T, torch.log(compute_snr(exact(DDPMScheduler(**LINEAR)), torch.tensor(SOME))))
    karras = EulerDiscreteScheduler(**LINEAR)
    sigmas = ((1 - ALPHA_BARS) / ALPHA_BARS).sqrt().numpy()
    yield line("sigmas-karras", 20, karras._convert_to_karras(sigmas, 20))


def coefficients():
    """Factors of x0 and x in the posterior's mean, its variance and the logarithm of it clipped as the schedulers do, the larger variance,
    the logarithm of a learned one, and the factors of data and noise in the state and in v."""
    zero, one = number(0), number(1)
    scheduler = exact(DDPMScheduler(**LINEAR, clip_sample=False, prediction_type="sample"))
    NOISE.value = zero
    for name, output, sample in (("x0", one, zero), ("x", zero, one)):
        yield line(f"posterior-mean-of-{name}", T, [scheduler.step(output, t, sample).prev_sample for t in SOME])
    for kind in ("fixed_small", "fixed_large"):
        yield line(f"variance-{kind}", T, [scheduler._get_variance(t, variance_type=kind) for t in SOME])
    yield line("deviation-fixed_small_log", T, [scheduler._get_variance(t, variance_type="fixed_small_log") for t in SOME])
    for v in (-1.0, -0.25, 0.6, 1.0):
        learned = [scheduler._get_variance(t, predicted_variance=number(v), variance_type="learned_range") for t in SOME]
        yield line(f"log-variance-learned_range({v})", T, learned)
    for name, x0, eps in (("x0", one, zero), ("noise", zero, one)):
        index = [torch.tensor([t]) for t in SOME]
        yield line(f"noised-of-{name}", T, [scheduler.add_noise(x0, eps, t) for t in index])
        yield line(f"v-of-{name}", T, [scheduler.get_velocity(x0, eps, t) for t in index])


def trajectories():
    for steps in (5, 20):
        for spacing in ("leading", "trailing"):
            yield ddim(f"ddim-{spacing}", steps, timestep_spacing=spacing)
        yield dpm("dpm++2m-trailing", steps)
        yield in_sigmas("heun-trailing", steps, HeunDiscreteScheduler(**LINEAR, timestep_spacing="trailing"))
        yield churn(steps, 0.3)
        yield flow(steps)
        yield consistency(steps)
    # 28 steps are 37 timesteps apart, so that nothing is interpolated. diffusers' DDIM does not step to the next timestep of this
    # spacing; its Euler does.
    yield in_sigmas("euler-linspace", 28, EulerDiscreteScheduler(**LINEAR, timestep_spacing="linspace"))
    for kind in ("small", "large"):
        yield ddpm(f"ddpm-{kind}-leading", 20, variance_type=f"fixed_{kind}", timestep_spacing="leading")
    yield ddpm("ddpm-small-trailing", 20, timestep_spacing="trailing")
    yield ddpm("ddpm-small-clipped-leading", 20, timestep_spacing="leading", clip_sample=True)
    yield ddpm("ddpm-small-leading", T, timestep_spacing="leading")
    for eta in (0.5, 1.0):
        yield ddim(f"ddim-eta{eta}-trailing", 20, eta=eta, timestep_spacing="trailing")
    yield ddim("ddim-clipped-trailing", 20, clipped=True, timestep_spacing="trailing")
    for kind, name in (("v_prediction", "v"), ("sample", "x0")):
        yield ddim(f"ddim-{name}-trailing", 20, timestep_spacing="trailing", prediction_type=kind)
        yield ddpm(f"ddpm-{name}-small-leading", 20, timestep_spacing="leading", prediction_type=kind)
        yield dpm(f"dpm++2m-{name}-trailing", 20, prediction_type=kind)
    yield ddim("ddim-v-zero-snr-trailing", 20, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    yield repaint(20)
    yield langevin()


def main():
    header = (f"# made by tests/golden/schedulers.py with diffusers {diffusers.__version__}, torch {torch.__version__}, "
              f"numpy {numpy.__version__}")
    lines = [header, *schedules(), *coefficients(), *trajectories()]
    write_or_check(Path(__file__).with_name("schedulers.txt"), lines)


if __name__ == "__main__":
    main()
