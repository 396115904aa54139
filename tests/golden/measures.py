#!/usr/bin/env python3
"""Distances between two small sets of features by their papers' definitions, in numpy, for tests/tests/measures.rs.

    pip install -r tests/golden/requirements.txt
    python3 tests/golden/measures.py              # writes measures.txt; --check says whether it is up to date

Value j of vector i is, in single precision, `sin(1.7 i + 2.3 j) + 0.3 cos(0.9 i j)` in the first set, of 40 vectors, taken for real, and
`0.9 sin(1.1 i + 1.9 j + 0.4) + 0.2 cos(0.7 i j)` in the second, of 50, taken for samples; both have 4 values.
"""
from pathlib import Path

import numpy

from golden import write_or_check


def grid(count):
    return numpy.arange(count)[:, None], numpy.arange(4)[None, :]


def sets():
    i, j = grid(40)
    real = numpy.sin(1.7 * i + 2.3 * j) + 0.3 * numpy.cos(0.9 * i * j)
    i, j = grid(50)
    samples = 0.9 * numpy.sin(1.1 * i + 1.9 * j + 0.4) + 0.2 * numpy.cos(0.7 * i * j)
    return (each.astype(numpy.float32).astype(numpy.float64) for each in (real, samples))


def frechet(a, b):
    """Heusel et al. 2017, equation 6; the trace of a product's root is the sum of the roots of its eigenvalues."""
    covariances = [numpy.cov(each, rowvar=False) for each in (a, b)]
    roots = numpy.sqrt(numpy.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0))
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return distance + numpy.trace(covariances[0]) + numpy.trace(covariances[1]) - 2 * roots.sum()


def kernel(a, b):
    """Binkowski et al. 2018: unbiased squared maximum mean discrepancy with `(x y / 4 + 1)^3`."""
    k = lambda x, y: (x @ y.T / 4 + 1) ** 3
    within = lambda x: (k(x, x).sum() - numpy.trace(k(x, x))) / (len(x) * (len(x) - 1))
    return within(a) + within(b) - 2 * k(a, b).mean()


def distances(a, b):
    return numpy.sqrt(((a[:, None] - b[None]) ** 2).sum(2))


def radii(a, k):
    """To the k-th nearest other vector: the first of a row is the vector itself."""
    return numpy.sort(distances(a, a), 1)[:, k]


def overlap(real, samples):
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""
    between = distances(real, samples)
    precision = (between <= radii(real, 3)[:, None]).any(0).mean()
    recall = (between <= radii(samples, 3)[None, :]).any(1).mean()
    inside = between <= radii(real, 5)[:, None]
    return precision, recall, inside.sum() / (5 * len(samples)), inside.any(1).mean()


def main():
    real, samples = sets()
    nearest = distances(samples, real)
    pairs = distances(samples, samples)[numpy.triu_indices(len(samples), 1)]
    rows = [
        ("frechet", [frechet(real, samples)]),
        ("kernel", [kernel(real, samples)]),
        ("overlap", overlap(real, samples)),
        ("nearest", [nearest.min(1).mean(), *nearest.argmin(1)[:10]]),
        ("pairwise", [pairs.mean()]),
    ]
    lines = [f"# made by tests/golden/measures.py with numpy {numpy.__version__}"]
    lines += [" ".join([name, *(f"{value:.10g}" for value in values)]) for name, values in rows]
    write_or_check(Path(__file__).with_name("measures.txt"), lines)


if __name__ == "__main__":
    main()
