#!/usr/bin/env python3
"""An independent `.mote` interpreter, written from core/docs/model-format.md and arithmetic.md with exact Python integers.

    python3 tests/golden/reference.py MODEL.mote --class 9 --seed 1 [--sample 0]   prints the pixels in hexadecimal
    python3 tests/golden/reference.py --normals 1000 --seed 1 --sample 2          prints the noise's CRC-32

Slow on purpose: no table of ours but the file's, no rounding but the stated one. Python 3.11, standard library only.
"""
import argparse
import math
import struct
import zlib
from statistics import NormalDist

MASK = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(right >> 32) ^ c[1] ^ k[0], right & MASK, (left >> 32) ^ c[3] ^ k[1], left & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def node(index):
    """Upper normal quantile in Q13 at table position `index`."""
    if index == 496:
        return 0
    octave, piece = 30 - index // 16, index % 16
    return round(-NormalDist().inv_cdf(2.0 ** -(octave + 2) * (1 + piece / 16)) * 8192)


NODES = [node(i) for i in range(497)]


def normal(word):
    tail = max(word & 0x7FFFFFFF, 1)
    octave = 31 - tail.bit_length()
    mantissa = tail << octave
    at = 16 * (30 - octave) + ((mantissa >> 26) & 15)
    fraction = (mantissa >> 14) & 0xFFF
    magnitude = ((NODES[at] << 12) + (NODES[at + 1] - NODES[at]) * fraction + 4096) >> 13
    return -magnitude if word >> 31 else magnitude


def normals(seed, sample, use, count):
    out = []
    for block in range((count + 3) // 4):
        counter = [block, use, sample & MASK, sample >> 32]
        out += [normal(w) for w in philox(counter, [seed & MASK, seed >> 32])]
    return out[:count]


def clamp(value, low, high):
    return max(low, min(high, value))


class Model:
    def __init__(self, data):
        self.data = data
        magic, version = struct.unpack_from("<4sH", data, 0)
        assert magic == b"MOTE" and version == 2, "not a version 2 file"
        length, crc = struct.unpack_from("<II", data, 8)
        assert length == len(data) and crc == zlib.crc32(data[16:])
        (self.height, self.width, self.channels, self.classes, rows, tensors, ops, self.history) = struct.unpack_from(
            "<8H", data, 16)
        self.low, self.high = struct.unpack_from("<hh", data, 32)
        tensors_at, ops_at, rows_at = struct.unpack_from("<III", data, 40)
        self.tensors = [struct.unpack_from("<IHHHBBhHf", data, tensors_at + 20 * i) for i in range(tensors)]
        self.ops = [data[ops_at + 52 * i:][:52] for i in range(ops)]
        self.rows = [struct.unpack_from("<8iI", data, rows_at + 36 * i) for i in range(rows)]


def limits(tensor):
    return (-32768, 32767) if tensor[4] else (-128, 127)


def convolution(model, op, values, condition):
    _, kernel, stride, upsample, source, second, target, _, flags, zero_in = struct.unpack_from("<BBBBHHHHBb", op)
    # Down and right.
    if kernel == 0x13:
        kernel, stride, upsample = (1, 3), (1, stride), (1, upsample)
    else:
        kernel, stride, upsample = (kernel, kernel), (stride, stride), (upsample, upsample)
    accumulate, normalize = flags & 1, flags & 2
    weights_at, bias_at, multipliers_at = struct.unpack_from("<III", op, 20)
    (_, h_in, w_in, c_in, *_), (_, h_out, w_out, c_out, *_) = model.tensors[source], model.tensors[target]
    if normalize:
        x = group_norm(model, op, values, condition)
        c_in += model.tensors[second][3] if second != 0xFFFF else 0
    else:
        x, zero_in = values[source], model.tensors[source][6]
    zero_out = model.tensors[target][6]
    taps = kernel[0] * kernel[1] * c_in
    padded = (taps + 3) // 4 * 4
    packed = struct.unpack_from(f"<{(c_out + 3) // 4 * 4 * padded}b", model.data, weights_at)
    weights = [packed[((o // 4 * (padded // 4) + k // 4) * 4 + o % 4) * 4 + k % 4] for o in range(c_out) for k in range(taps)]
    bias = struct.unpack_from(f"<{c_out}i", model.data, bias_at)
    multipliers = struct.unpack_from(f"<{c_out}i", model.data, multipliers_at)
    old, out = values.get(target), []
    low, high = limits(model.tensors[target])
    for row in range(h_out):
        for column in range(w_out):
            window = []
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    y, z = row * stride[0] + ky - kernel[0] // 2, column * stride[1] + kx - kernel[1] // 2
                    if 0 <= y < h_in * upsample[0] and 0 <= z < w_in * upsample[1]:
                        at = ((y // upsample[0]) * w_in + z // upsample[1]) * c_in
                        window += x[at:at + c_in]
                    else:
                        window += [zero_in] * c_in
            for channel in range(c_out):
                part = weights[channel * taps:(channel + 1) * taps]
                acc = bias[channel] + sum(a * b for a, b in zip(window, part))
                base = old[len(out)] if accumulate else zero_out
                out.append(clamp(base + ((acc * multipliers[channel] + (1 << 31)) >> 32), low, high))
    values[target] = out


def power(value, bits):
    """round(value * 2^bits), ties up."""
    return value << min(bits, 31) if bits >= 0 else ((value >> (min(-bits, 62) - 1)) + 1) >> 1


def group_norm(model, op, values, condition):
    first, second = struct.unpack_from("<HH", op, 4)
    flags, _, gain_bits, bias_bits = struct.unpack_from("<BbBB", op, 12)
    table_at, affine_at = struct.unpack_from("<II", op, 44)
    groups = struct.unpack_from("<HH", op, 32)
    epsilons = struct.unpack_from("<II", op, 36)
    c_out = model.tensors[first][3] + (model.tensors[second][3] if second != 0xFFFF else 0)
    affine_at += 4 * c_out * (condition if flags & 4 else 0)
    affine = [struct.unpack_from("<hh", model.data, affine_at + 4 * c) for c in range(c_out)]
    table = struct.unpack_from("<512b", model.data, table_at)
    pixels = model.tensors[first][1] * model.tensors[first][2]
    out = [0] * (pixels * c_out)
    base = 0
    for source, count_groups, epsilon in zip((first, second), groups, epsilons):
        if source == 0xFFFF:
            continue
        c_in, x = model.tensors[source][3], values[source]
        size = c_in // count_groups
        for group in range(count_groups):
            members = [x[p * c_in + c] for p in range(pixels) for c in range(group * size, (group + 1) * size)]
            n, total, squares = len(members), sum(members), sum(v * v for v in members)
            spread = max(n * squares - total * total + ((n * n * epsilon) >> 8), 1)
            normalization = (64 - spread.bit_length()) & ~1
            quotient = (n << 47) // math.isqrt(spread << normalization)
            excess = quotient.bit_length() - 16
            inverse = (quotient + (1 << (excess - 1))) >> excess if excess > 0 else quotient << -excess
            inverse_bits = 47 - normalization // 2 - excess
            mean = (total << 16) // n
            for c in range(group * size, (group + 1) * size):
                gain, bias = affine[base + c]
                bits = inverse_bits + gain_bits
                shift = clamp(bits - 16, 0, 20)
                slope = clamp(power(gain * inverse, shift - bits), -(1 << 15) + 1, (1 << 15) - 1)
                offset = power(bias, shift - bias_bits) - ((mean * slope + (1 << 15)) >> 16)
                offset += ((1 << shift) >> 1) + (256 << shift)
                offset = clamp(offset, -(1 << 30) + 1, (1 << 30) - 1)
                for p in range(pixels):
                    steps = (x[p * c_in + c] * slope + offset) >> shift
                    out[p * c_out + base + c] = table[clamp(steps, 0, 511)]
        base += c_in
    return out


def power_of_two(distance):
    """2^(-distance / 256) in Q16, from a table of 256 rounded entries and a rounded shift."""
    whole, octaves = min(65535, round(65536 * 2.0 ** (-(distance % 256) / 256))), distance // 256
    return (whole + ((1 << octaves) >> 1)) >> octaves


def softmax(scores):
    powers = [power_of_two(max(scores) - score) for score in scores]
    inverse = min((1 << 47) // sum(powers), (1 << 31) - 1)
    return [(power * inverse + (1 << 31)) >> 32 for power in powers]


def attention(model, op, values):
    heads = op[1]
    source, _, target = struct.unpack_from("<HHH", op, 4)
    score_by, value_by = struct.unpack_from("<ii", op, 20)
    _, height, width, channels, *_, = model.tensors[target]
    zero_out, x, size = model.tensors[target][6], values[source], channels // heads
    tokens = height * width

    def part(kind, token, head):
        at = token * 3 * channels + kind * channels + head * size
        return x[at:at + size]

    out = [0] * (tokens * channels)
    for head in range(heads):
        keys = [[max(v, -127) for v in part(1, token, head)] for token in range(tokens)]
        content = [[max(v, -127) for v in part(2, token, head)] for token in range(tokens)]
        for token in range(tokens):
            query = part(0, token, head)
            sums = [sum(a * b for a, b in zip(query, key)) for key in keys]
            row = softmax([clamp((s * score_by + (1 << 31)) >> 32, -32768, 32767) for s in sums])
            for c in range(size):
                acc = sum(p * content[t][c] for t, p in enumerate(row))
                value = clamp(zero_out + ((acc * value_by + (1 << 31)) >> 32), -128, 127)
                out[token * channels + head * size + c] = value
    values[target] = out


def draw(model, label, seed, sample):
    count = model.height * model.width * model.channels
    x, previous = normals(seed, sample, 0, count), [0] * count
    for index, (p, q, a, b, b_prev, c, _, _, _) in enumerate(model.rows):
        values = {0: x}
        for op in model.ops:
            if op[0] == 0:
                convolution(model, op, values, index * model.classes + label)
            else:
                attention(model, op, values)
        z = normals(seed, sample, index + 1, count) if c else [0] * count
        half = 1 << 19
        x0 = [clamp((p * x[i] + q * values[1][i] + half) >> 20, model.low, model.high) for i in range(count)]
        x = [clamp((a * x[i] + b * x0[i] + b_prev * previous[i] + c * z[i] + half) >> 20, -32768, 32767)
             for i in range(count)]
        previous = x0
    return bytes(clamp(((v + 4096) * 255 + 4096) >> 13, 0, 255) for v in x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--class", dest="label", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--normals", type=int)
    args = parser.parse_args()
    if args.normals:
        values = normals(args.seed, args.sample, 0, args.normals)
        print(f"{zlib.crc32(struct.pack(f'<{len(values)}h', *values)):08x}")
    else:
        with open(args.model, "rb") as file:
            print(draw(Model(file.read()), args.label, args.seed, args.sample).hex())


if __name__ == "__main__":
    main()
