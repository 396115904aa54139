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
from fractions import Fraction
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


def quantity(x):
    """A 32-bit float."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


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
    count = (c_out + 3) // 4 * 4 * padded
    if flags & 8:
        nibbles = model.data[weights_at:][:count // 2]
        packed = [(nibbles[i // 8 * 4 + i % 4] >> i % 8 // 4 * 4 & 15) - 8 for i in range(count)]
    else:
        packed = struct.unpack_from(f"<{count}b", model.data, weights_at)
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


def noised(x, level, z):
    """round((signal x + noise z) / 2^20), element by element."""
    return [clamp((level[0] * a + level[1] * b + (1 << 19)) >> 20, -32768, 32767) for a, b in zip(x, z)]


def from_pixels(pixels):
    """round(4096 (pixel / 127.5 - 1)), ties up."""
    return [(2 * (2 * pixel - 255) * 4096 + 255) // 510 for pixel in pixels]


def to_pixels(x):
    return bytes(clamp(((v + 4096) * 255 + 4096) >> 13, 0, 255) for v in x)


def to_rgb565(red, green, blue):
    """Each channel by exact rational rounding; no ties occur."""
    return sum(math.floor(Fraction(channel * most, 255) + Fraction(1, 2)) << shift
               for channel, most, shift in ((red, 31, 11), (green, 63, 5), (blue, 31, 0)))


def to_natural(x, offset, scale):
    return quantity(offset + quantity(scale * (x / 4096)))


def from_natural(value, offset, scale):
    steps = quantity(quantity(quantity(value - offset) / scale) * 4096)
    return clamp(math.floor(quantity(steps + 0.5)), -32768, 32767)


def scaled_root(square):
    """sqrt(square) = root / 2^shift, the root rounded down, in 2^31 to 2^32; of 1 if the square is 0."""
    square = max(square, 1)
    shift = (64 - square.bit_length()) // 2
    return math.isqrt(square << (2 * shift)), shift


def mix_weights(a, b, fraction):
    """Weights of two vectors, Q24, in the point at `fraction` / 65536 of the arc between them, by halving it."""
    if fraction == 65536:
        return 0, 1 << 24
    (first, first_shift), (second, second_shift) = scaled_root(sum(v * v for v in a)), scaled_root(sum(v * v for v in b))
    both = sum(v * w for v, w in zip(a, b))
    part = min((((abs(both) << (first_shift + second_shift)) >> 32) << 32) // first, MASK)
    cosine = min((part << 32) // second, 1 << 32)
    cosine = max(-cosine if both < 0 else cosine, (1 << 22) - (1 << 32))
    low, high = (1 << 24, 0), (0, 1 << 24)
    for bit in range(15, -1, -1):
        root, shift = scaled_root(((1 << 32) + cosine) << 29)
        middle = tuple((((((p + q) << 32) // root << shift) + 2) >> 2) for p, q in zip(low, high))
        low, high = (middle, high) if fraction >> bit & 1 else (low, middle)
        cosine = root * 2 >> shift
    return low


def walk(rows, jump, resamples):
    """Moves from row 0 to the data: ("down", row), or ("back", from, to) before row `to`. From position `rows - 1` and each
    `jump` rows before it the process turns back, as often as there are resamples beyond the first."""
    left = [resamples - 1 if p >= jump and (rows - 1 - p) % jump == 0 else 0 for p in range(rows)]
    position, moves = 0, []
    while position < rows:
        moves.append(("down", position))
        position += 1
        if position < rows and left[position]:
            left[position] -= 1
            moves.append(("back", position, position - jump))
            position -= jump
    return moves


def forward(model, source, target):
    """What is kept of the state from row `source` back to row `target`, and the fresh noise, Q20."""
    source, target = max(model.rows[source][6], 1), max(model.rows[target][6], 0)
    shift = 32 - source.bit_length()
    kept = min((min(target, source) << shift << 32) // (source << shift), 1 << 32)
    kept = (kept + (1 << 11)) >> 12
    return kept, math.isqrt((1 << 40) - kept * kept)


def network(model, x, condition):
    values = {0: x}
    for op in model.ops:
        if op[0] == 0:
            convolution(model, op, values, condition)
        else:
            attention(model, op, values)
    return values[1]


def draw(model, label=0, seed=1, sample=0, first_row=0, start=("noise",), known=None, mean=False):
    """The state at the end. `start` is ("noise",), ("noised", values), ("noisy", values) or ("mixed", (seed, sample), (seed,
    sample), fraction); `known` is (values, mask of the values, jump, resamples)."""
    count, half = model.height * model.width * model.channels, 1 << 19
    level = model.rows[first_row][6:8]
    if start[0] == "noise":
        x = normals(seed, sample, 0, count)
    elif start[0] == "mixed":
        a, b = (normals(*end, 0, count) for end in start[1:3])
        first, second = mix_weights(a, b, start[3])
        x = [clamp((first * v + second * w + (1 << 23)) >> 24, -32768, 32767) for v, w in zip(a, b)]
    else:
        x = noised(start[1], level if start[0] == "noised" else (level[0], 0), normals(seed, sample, 0, count))
    moves = walk(len(model.rows) - first_row, *(known[2:] if known else (1, 1)))
    previous = [0] * count
    for number, move in enumerate(moves, first_row):
        if move[0] == "back":
            kept, noise = forward(model, first_row + move[1], first_row + move[2])
            x = noised(x, (kept, noise), normals(seed, sample, number + 1, count))
            continue
        index = first_row + move[1]
        p, q, a, b, b_prev, c = model.rows[index][:6]
        f = network(model, x, index * model.classes + label)
        z = normals(seed, sample, number + 1, count) if c else [0] * count
        x0 = [clamp((p * x[i] + q * f[i] + half) >> 20, model.low, model.high) for i in range(count)]
        x = x0 if mean else [
            clamp((a * x[i] + b * x0[i] + b_prev * previous[i] + c * z[i] + half) >> 20, -32768, 32767)
            for i in range(count)]
        previous = x0
        last = mean or index + 1 == len(model.rows)
        if known:
            z = normals(seed, sample, first_row + len(moves) + number + 1, count)
            given = known[0] if last else noised(known[0], model.rows[index + 1][6:8], z)
            x = [new if mask else old for old, new, mask in zip(x, given, known[1])]
        if last:
            return x


def row_for_noise(model, deviation):
    """The row whose noise / signal is nearest to deviation / 4096 by its ratio, the first of equals."""
    def nearness(row):
        small, large = sorted((max(row[7], 0) << 12, max(row[6], 0) * deviation))
        shift = 64 - max(large, 1).bit_length()
        return ((small << shift >> 32) << 32) // (max(large, 1) << shift >> 32)
    return max(range(len(model.rows)), key=lambda index: (nearness(model.rows[index]), -index))


def score(x, values):
    """Mean squared difference, Q24, rounded, ties up."""
    return (sum((a - b) ** 2 for a, b in zip(x, values)) + len(x) // 2) // len(x)


def first_row_of(level, levels, rows):
    return (2 * level + 1) * rows // (2 * levels)


def normal_scores(scores):
    mean = sum(scores) // len(scores)
    return mean, math.isqrt(sum((v - mean) ** 2 for v in scores) // len(scores))


def standardized(scores, normal):
    """Mean number of deviations above the mean, Q12."""
    parts = [((v - mean) << 12) // max(deviation, 1) for v, (mean, deviation) in zip(scores, normal)]
    return sum(parts) // len(parts)


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
            print(to_pixels(draw(Model(file.read()), args.label, args.seed, args.sample)).hex())


if __name__ == "__main__":
    main()
