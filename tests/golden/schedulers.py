#!/usr/bin/env python3
"""Trajectories of diffusers' schedulers on a denoiser that anyone can compute, for tests/tests/schedulers.rs.

    pip install diffusers==0.42.1 torch numpy
    python3 tests/golden/schedulers.py > tests/golden/schedulers.txt

The denoiser predicts the noise `0.3 sin(3 x) + x (0.2 + t / 2000)` at timestep t of 1000. Each line: a name, the number of steps, then
the states after each network pass, as amplitudes of the variance-preserving process.
"""
import diffusers
import numpy
import torch
from diffusers import (
    DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler)

T, START = 1000, 0.8
LINEAR = dict(num_train_timesteps=T, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)


def eps(x, t):
    return 0.3 * torch.sin(3 * x) + x * (0.2 + t / 2000)


def emit(name, steps, values):
    print(name, steps, *(f"{float(v):.9f}" for v in values))


def exact(scheduler):
    """Double precision where the scheduler keeps its own products."""
    scheduler.alphas_cumprod = ALPHA_BARS
    return scheduler


def ddim(spacing, steps):
    scheduler = exact(DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing=spacing))
    scheduler.set_timesteps(steps)
    x, states = torch.tensor([START], dtype=torch.float64), []
    for t in scheduler.timesteps:
        x = scheduler.step(eps(x, t), t, x).prev_sample
        states.append(x)
    emit(f"ddim-{spacing}", steps, states)


def dpm(steps):
    scheduler = exact(DPMSolverMultistepScheduler(**LINEAR, timestep_spacing="trailing", final_sigmas_type="zero"))
    scheduler.set_timesteps(steps)
    x, states = torch.tensor([START], dtype=torch.float64), []
    for t in scheduler.timesteps:
        x = scheduler.step(eps(x, t), t, x).prev_sample
        states.append(x)
    emit("dpm++2m-trailing", steps, states)


def in_sigmas(name, steps, scheduler):
    """Schedulers whose state is x / signal."""
    scheduler = exact(scheduler)
    scheduler.set_timesteps(steps)
    signal = lambda sigma: 1 / (sigma**2 + 1) ** 0.5
    sigmas = scheduler.sigmas.double()
    x, states = torch.tensor([START], dtype=torch.float64) / signal(sigmas[0]), []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        noise = eps(x * signal(sigmas[i]), t)
        x = scheduler.step(noise, t, x).prev_sample
        states.append(x * signal(sigmas[i + 1]))
    emit(name, steps, states)


def posterior():
    for kind in ("fixed_small", "fixed_large"):
        scheduler = exact(DDPMScheduler(**LINEAR, variance_type=kind, clip_sample=False))
        scheduler.betas, scheduler.alphas = BETAS, 1 - BETAS
        emit(f"variance-{kind}", T, [scheduler._get_variance(t) for t in range(1, T, 37)])


def main():
    print(f"# made by tests/golden/schedulers.py with diffusers {diffusers.__version__}, torch {torch.__version__}, "
          f"numpy {numpy.__version__}")
    emit("alpha-bar-linear", T, ALPHA_BARS[::37])
    cosine = DDPMScheduler(num_train_timesteps=T, beta_schedule="squaredcos_cap_v2")
    emit("beta-cosine", T, cosine.betas[::37])
    posterior()
    for steps in (5, 20):
        ddim("leading", steps)
        ddim("trailing", steps)
        dpm(steps)
        in_sigmas("heun-trailing", steps, HeunDiscreteScheduler(**LINEAR, timestep_spacing="trailing"))
    # 28 steps are 37 timesteps apart, so that nothing is interpolated. diffusers' DDIM does not step to the next timestep of this
    # spacing; its Euler does.
    in_sigmas("euler-linspace", 28, EulerDiscreteScheduler(**LINEAR, timestep_spacing="linspace"))


if __name__ == "__main__":
    main()
