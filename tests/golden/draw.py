#!/usr/bin/env python3
"""What requests draw (`core/src/request.rs`), by the independent interpreter `reference.py`: image-to-image, inpainting,
interpolation, denoising; and scores, units and display colours.

    python3 tests/golden/draw.py            # writes tests/golden/draw.txt; --check says whether it is up to date

Two models: the released demo, and `signal`, which `cargo run -p mote-tests --example unet FILE signal` writes. States and
values are i16 Q12, little-endian, in hexadecimal; pixels and masks are bytes.
"""
import struct
import subprocess
import tempfile
from pathlib import Path

import reference
from golden import write_or_check

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def models():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signal.mote"
        command = ["cargo", "run", "--quiet", "-p", "mote-tests", "--example", "unet", str(path), "signal"]
        subprocess.run(command, cwd=ROOT, check=True)
        signal = reference.Model(path.read_bytes())
    return signal, reference.Model((ROOT / "firmware/models/demo.mote").read_bytes())


def words(values):
    return struct.pack(f"<{len(values)}h", *values).hex()


def line(name, model, label=0, seed=1, sample=0, first_row=0, start=("noise",), known=None, mean=False):
    """A drawing: its request, then the state at the end. Values are given as ("pixels" or "q12", numbers)."""
    def split(values):
        kind, numbers = values
        text = bytes(numbers).hex() if kind == "pixels" else words(numbers)
        return f"{kind} {text}", reference.from_pixels(numbers) if kind == "pixels" else numbers

    text = f"draw {name} {label} {seed} {sample} {first_row} {'mean' if mean else 'sample'} {start[0]}"
    if start[0] in ("noised", "noisy"):
        given, values = split(start[1])
        text, start = f"{text} {given}", (start[0], values)
    elif start[0] == "mixed":
        (a, b), (c, d), fraction = start[1:]
        text = f"{text} {a} {b} {c} {d} {fraction}"
    if known:
        given, values = split(known[0])
        text = f"{text} known {given} {bytes(known[1]).hex()} {known[2]} {known[3]}"
        channels = model.channels if len(known[1]) < len(values) else 1
        known = (values, [byte for byte in known[1] for _ in range(channels)], *known[2:])
    state = reference.draw(model, label, seed, sample, first_row, start, known, mean)
    return f"{text} is {words(state)}", state


def drawings(signal, demo):
    count = signal.height * signal.width * signal.channels
    window = ("q12", [(i * i * 97 + i * 1500) % 9000 - 4500 for i in range(count)])
    gaps = [int(i % 5 != 2 and i < 20) for i in range(count)]
    pixels = ("pixels", [(i * 37 + i // 14 * 90) % 256 for i in range(14 * 14)])
    left = [255 if i % 14 < 7 else 0 for i in range(14 * 14)]
    for request in (
        dict(seed=3),
        dict(seed=3, first_row=2, start=("noised", window)),
        dict(seed=3, sample=4, first_row=5, start=("noised", window)),
        dict(seed=3, first_row=reference.row_for_noise(signal, 1200), start=("noisy", window)),
        dict(seed=3, first_row=reference.row_for_noise(signal, 1200), start=("noisy", window), mean=True),
        dict(seed=1 << 40, sample=1 << 33, known=(window, gaps, 1, 1)),
        dict(seed=5, known=(window, gaps, 1, 3)),
        dict(seed=5, known=(window, gaps, 2, 2)),
        dict(seed=5, known=(window, gaps, 5, 2)),
        dict(seed=5, first_row=1, start=("noised", window), known=(window, gaps, 2, 2)),
        *(dict(seed=6, start=("mixed", (6, 0), (7, 2), fraction)) for fraction in (0, 1, 21845, 32768, 65535, 65536)),
    ):
        yield line("signal", signal, **request)[0]
    for request in (
        dict(label=3, seed=1, first_row=2, start=("noised", pixels)),
        dict(label=7, seed=2, known=(pixels, left, 1, 2)),
        dict(label=9, seed=1, sample=5, start=("mixed", (1, 0), (2, 0), 32768)),
    ):
        yield line("demo", demo, **request)[0]


def scores(signal):
    count = signal.height * signal.width * signal.channels
    windows = [[(i * factor) % 6000 - 3000 for i in range(count)] for factor in (731, 977, 1201, 44)]
    found = []
    for window in windows:
        rows = [reference.first_row_of(level, 3, len(signal.rows)) for level in range(3)]
        found.append([reference.score(
            line("signal", signal, seed=1, first_row=row, start=("noised", ("q12", window)))[1], window) for row in rows])
        yield f"score signal {words(window)} is {' '.join(map(str, found[-1]))}"
    normal = [reference.normal_scores([some[level] for some in found[:3]]) for level in range(3)]
    yield f"standardized 3 is {reference.standardized(found[3], normal)}"


def conversions(signal, demo):
    for name, model in ("signal", signal), ("demo", demo):
        rows = [reference.row_for_noise(model, deviation) for deviation in range(0, 65536, 257)]
        yield f"row_for_noise {name} is {' '.join(map(str, rows))}"
    colors = [(p, 255 - p, p * 7 % 256) for p in range(256)]
    yield f"rgb565 is {' '.join(str(reference.to_rgb565(*color)) for color in colors)}"
    unit = struct.unpack("<2f", struct.pack("<2f", 21.7, 0.37))
    states = range(-32768, 32768, 1031)
    natural = [reference.to_natural(x, *unit) for x in states]
    yield f"to_natural is {struct.pack(f'<{len(natural)}f', *natural).hex()}"
    values = [reference.quantity(x * 0.0301) for x in range(-300, 700, 7)]
    yield f"from_natural is {' '.join(str(reference.from_natural(value, *unit)) for value in values)}"


def main():
    signal, demo = models()
    header = [
        "# Requests and what they draw: see tests/golden/draw.py, which made this file with reference.py, Python 3.11, standard",
        "# library only, 2026-11-23."]
    write_or_check(FOLDER / "draw.txt", [*header, *drawings(signal, demo), *scores(signal), *conversions(signal, demo)])


if __name__ == "__main__":
    main()
