#!/usr/bin/env python3
"""Loss weights and the terms of the variational bound, written from the papers, for tests/tests/losses.rs.

    pip install -r tests/golden/requirements.txt
    python3 tests/golden/losses.py                # writes losses.txt; --check says whether it is up to date

The process has 1000 timesteps of the linear schedule, 1e-4 to 0.02. `weight`: weighting, objective, then the factor of the squared error of
the network's output at some timesteps. `prior`, `divergence`, `decoder`, `pixel`: a variance of the reverse steps, then terms of the bound in
nats at the same timesteps for data 0.4, an estimate of it of 0.1 and a second output of 0.3; `decoder` and `pixel` for a list of data and of
8-bit values in place of timesteps. Divergences are torch's of two normal distributions, pixel probabilities have 50 digits.
"""
from pathlib import Path

import mpmath
import torch
from torch.distributions import Normal, kl_divergence

from golden import write_or_check

T, SOME = 1000, range(1, 1000, 111)
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
BARS = torch.cumprod(1 - BETAS, 0)
BEFORE = torch.cat([torch.ones(1, dtype=torch.float64), BARS[:-1]])
X, DATA, ESTIMATE, OUTPUT = -0.7, 0.4, 0.1, 0.3
mpmath.mp.dps = 50


def number(value):
    return f"{float(value):.10g}"


def line(*words):
    return " ".join(word if isinstance(word, str) else number(word) for word in words)


def estimate_of(objective, output, t):
    """The data that an output stands for, with x = signal x0 + noise eps."""
    signal, noise = BARS[t].sqrt(), (1 - BARS[t]).sqrt()
    return {
        "epsilon": lambda: (X - noise * output) / signal,
        "x0": lambda: torch.as_tensor(output),
        "v": lambda: signal * X - noise * output,
        "score": lambda: (X + noise**2 * output) / signal,
        "velocity": lambda: (X - noise * output) / (signal + noise),
    }[objective]()


def weightings():
    """Each a function of the timestep: the factor of the squared error of x0, or of epsilon."""
    snr = lambda t: BARS[t] / (1 - BARS[t])
    sigma = lambda t: ((1 - BARS[t]) / BARS[t]).sqrt()
    # Hang et al. 2023: min(snr, gamma) on x0.
    yield "min_snr", "x0", lambda t: min(snr(t), torch.tensor(5.0))
    # Salimans, Ho 2022, section 4: max(|x - x_hat|^2, |eps - eps_hat|^2), the second snr times the first.
    yield "truncated_snr", "x0", lambda t: max(torch.tensor(1.0), snr(t))
    # Choi et al. 2022, equation 8, on the simplified loss, which is that of epsilon.
    yield "p2", "epsilon", lambda t: 1 / (1 + snr(t)) ** 0.5
    # Karras et al. 2022, table 1, lambda(sigma) on the denoised image.
    yield "edm", "x0", lambda t: (sigma(t) ** 2 + 0.25) / (sigma(t) * 0.5) ** 2
    # Ho et al. 2020, equation 12, on epsilon, with the posterior's variance.
    posterior = lambda t: BETAS[t] * (1 - BEFORE[t]) / (1 - BARS[t])
    yield "vlb", "epsilon", lambda t: BETAS[t] ** 2 / (2 * posterior(t) * (1 - BETAS[t]) * (1 - BARS[t]))


def weights():
    for name, of, factor in weightings():
        for objective in ("epsilon", "x0", "v", "score", "velocity"):
            # How far the estimate moves when the output does; both are straight lines.
            moved = [(estimate_of(objective, 1.0, t) - estimate_of(objective, 0.0, t)) ** 2 for t in SOME]
            of_x0 = [(estimate_of(of, 1.0, t) - estimate_of(of, 0.0, t)) ** 2 for t in SOME]
            yield line("weight", name, objective, *(factor(t) * a / b for t, a, b in zip(SOME, moved, of_x0)))


def posterior(t, x0):
    """Ho et al. 2020, equations 6 and 7."""
    mean = (BEFORE[t].sqrt() * BETAS[t] * x0 + (1 - BETAS[t]).sqrt() * (1 - BEFORE[t]) * X) / (1 - BARS[t])
    return mean, BETAS[t] * (1 - BEFORE[t]) / (1 - BARS[t])


def variance(kind, t):
    """Of the reverse step; the first one takes the second's posterior (Nichol, Dhariwal 2021)."""
    low, high = posterior(max(t, 1), 0.0)[1], BETAS[t]
    share = (OUTPUT + 1) / 2
    return {"posterior": low, "beta": high, "learned": torch.exp(share * high.log() + (1 - share) * low.log())}[kind]


def pixel(value, mean, deviation):
    """-ln of the probability that a normal variate rounds to an 8-bit value (Ho et al. 2020, equation 13)."""
    edge = lambda v: (mpmath.mpf(v) / mpmath.mpf("127.5") - 1 - mpmath.mpf(mean)) / mpmath.mpf(deviation)
    low = -mpmath.inf if value == 0 else edge(value - 0.5)
    high = mpmath.inf if value == 255 else edge(value + 0.5)
    # From the side where the tail is small.
    low, high = (low, high) if low + high > 0 else (-high, -low)
    above = lambda z: mpmath.erfc(z / mpmath.sqrt(2)) / 2
    return -mpmath.log(above(low) - above(high))


def bound():
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    values = (-1.0, -0.3, 0.0, 0.4, 1.0)
    yield line("prior", "any", *(kl_divergence(Normal(BARS[-1].sqrt() * x0, (1 - BARS[-1]).sqrt()), standard) for x0 in values))
    for kind in ("posterior", "beta", "learned"):
        terms = []
        for t in SOME:
            (mean, exact), (estimated, _) = posterior(t, DATA), posterior(t, ESTIMATE)
            terms.append(kl_divergence(Normal(mean, exact.sqrt()), Normal(estimated, variance(kind, t).sqrt())))
        yield line("divergence", kind, *terms)
        deviation = variance(kind, 0).sqrt()
        yield line("decoder", kind, *(-Normal(ESTIMATE, deviation).log_prob(torch.tensor(x0, dtype=torch.float64)) for x0 in values))
        yield line("pixel", kind, *(pixel(value, ESTIMATE, float(deviation)) for value in (0, 3, 120, 140, 141, 200, 255)))


def main():
    header = f"# made by tests/golden/losses.py with torch {torch.__version__}, mpmath {mpmath.__version__}"
    write_or_check(Path(__file__).with_name("losses.txt"), [header, *weights(), *bound()])


if __name__ == "__main__":
    main()
