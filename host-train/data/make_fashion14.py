#!/usr/bin/env python3
"""Makes fashion14.bin, the embedded default data set, from the Debian package dataset-fashion-mnist.

    python3 make_fashion14.py [--source /usr/share/datasets/fashion-mnist] [--out fashion14.bin]

The first 400 images of each class among the 60,000 training images, in file order, 28x28 -> 14x14 by the mean of
2x2 boxes, 256 -> 16 gray levels by rounding to the nearest multiple of 17. Image i has label i % 10.
fashion14.md describes every byte. Needs the standard library only. The compressed bytes depend on the zlib that Python
is linked with (made with zlib 1.2.13); the content hash this prints does not.
"""

import argparse
import gzip
import hashlib
import os
import struct
import sys
import zlib

NAMES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
PER_CLASS = 400
SIDE = 14


def read_idx(path, magic, header_words):
    """The payload of a gzipped idx file and its dimensions."""
    with gzip.open(path) as file:
        data = file.read()
    words = struct.unpack(f">{header_words}I", data[: 4 * header_words])
    if words[0] != magic:
        sys.exit(f"{path}: idx magic {words[0]:#x}, expected {magic:#x}")
    return words[1:], data[4 * header_words :]


def shrink(image):
    """28x28 bytes -> 14x14 values in 0..=15: round((a + b + c + d) / 4 / 17), halves up."""
    side = 2 * SIDE
    out = bytearray()
    for y in range(SIDE):
        for x in range(SIDE):
            at = 2 * y * side + 2 * x
            total = image[at] + image[at + 1] + image[at + side] + image[at + side + 1]
            out.append((total + 34) // 68)
    return bytes(out)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", default=os.path.join(here, "fashion14.bin"))
    args = parser.parse_args()

    (count, rows, columns), pixels = read_idx(f"{args.source}/train-images-idx3-ubyte.gz", 0x803, 4)
    (labels_count,), labels = read_idx(f"{args.source}/train-labels-idx1-ubyte.gz", 0x801, 2)
    if (rows, columns) != (2 * SIDE, 2 * SIDE) or count != labels_count:
        sys.exit(f"{args.source}: {count} images of {rows}x{columns} and {labels_count} labels, expected 28x28 each")

    by_class = [[] for _ in NAMES]
    for index in range(count):
        images = by_class[labels[index]]
        if len(images) < PER_CLASS:
            images.append(shrink(pixels[index * rows * columns : (index + 1) * rows * columns]))

    total = PER_CLASS * len(NAMES)
    out_labels = bytes(index % len(NAMES) for index in range(total))
    values = b"".join(by_class[index % len(NAMES)][index // len(NAMES)] for index in range(total))
    packed = bytes(values[i] << 4 | values[i + 1] for i in range(0, len(values), 2))

    header = b"MOTEDATA" + struct.pack("<HHHHHHI", 1, SIDE, SIDE, 1, 4, len(NAMES), total)
    header += b"".join(struct.pack("B", len(name)) + name.encode() for name in NAMES)
    file = header + zlib.compress(out_labels + packed, 9)

    temporary = args.out + ".partial"
    with open(temporary, "wb") as out:
        out.write(file)
    os.replace(temporary, args.out)
    content = out_labels + bytes(17 * value for value in values)
    print(f"{args.out}: {len(file)} bytes, {total} images")
    print(f"sha256 of the file    {hashlib.sha256(file).hexdigest()}")
    print(f"sha256 of the content {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
