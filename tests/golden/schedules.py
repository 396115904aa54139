#!/usr/bin/env python3
"""Schedules, posterior and DDIM quantities in 50-digit decimals, from the papers' equations: the oracle of schedules.tsv.

    python3 tests/golden/schedules.py             # writes it; --check says whether it is up to date

Python 3.11, standard library only. Timesteps count from 0.
"""
from decimal import Decimal as D, getcontext
from pathlib import Path

from golden import write_or_check

getcontext().prec = 50
PI = D("3.14159265358979323846264338327950288419716939937510582097494")
T = 50


def cosine(x):
    term, total, n = D(1), D(1), 0
    while abs(term) > D(10) ** -48:
        n += 2
        term = -term * x * x / (n * (n - 1))
        total += term
    return total


def betas(name):
    ramp = [D(i) / (T - 1) for i in range(T)]
    low, high = D("0.001"), D("0.2")
    if name == "constant":
        return [D("0.05")] * T
    if name == "linear":
        return [low + (high - low) * r for r in ramp]
    if name == "cosine":
        f = [cosine((D(i) / T + D("0.008")) / D("1.008") * PI / 2) ** 2 for i in range(T + 1)]
        return [min(1 - f[i + 1] / f[i], D("0.999")) for i in range(T)]
    if name == "sigmoid":
        return [low + (high - low) / (1 + (6 - 12 * r).exp()) for r in ramp]
    if name == "tanh":
        def tanh(x):
            return ((2 * x).exp() - 1) / ((2 * x).exp() + 1)
        return [low + (high - low) * (1 + tanh(6 * r - 3)) / 2 for r in ramp]
    raise ValueError(name)


def main():
    lines = ["# made by: python3 tests/golden/schedules.py (Python 3.11, 50-digit decimals), 2026-11-22"]
    lines.append("# schedule\ttimestep\tbeta\talpha_bar\tposterior_variance\tposterior_x0\tposterior_xt\tddim_a\tddim_b\tddim_c")
    lines.append("# ddim: eta = 1/2 from this timestep to the one before (the data, before timestep 0), v objective")
    for name in ("constant", "linear", "cosine", "sigmoid", "tanh"):
        product, previous = D(1), D(1)
        for timestep, beta in enumerate(betas(name)):
            product *= 1 - beta
            variance = beta * (1 - previous) / (1 - product)
            of_x0 = previous.sqrt() * beta / (1 - product)
            of_xt = (1 - beta).sqrt() * (1 - previous) / (1 - product)
            sigma = variance.sqrt() / 2
            a = (1 - previous - sigma * sigma).sqrt() / (1 - product).sqrt()
            b = previous.sqrt() - a * product.sqrt()
            values = (beta, product, variance, of_x0, of_xt, a, b, sigma)
            lines.append("\t".join([name, str(timestep), *(f"{v:.20e}" for v in values)]))
            previous = product
    write_or_check(Path(__file__).with_name("schedules.tsv"), lines)


if __name__ == "__main__":
    main()
