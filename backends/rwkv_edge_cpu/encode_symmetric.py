"""The search of quant/encode/symmetric.py and codebook.py, compiled."""
# mypy: allow-untyped-defs
import numpy as np

from rwkv_edge.quant.encode.symmetric import ROUNDS, TURNS
from rwkv_edge_cpu.encode_lanes import INFINITY, ONE, ZERO, HALF, clipped, divided, exact, exactly, half, load, size_of, whole
from rwkv_edge_cpu.encode_layout import (
    CODES, EVEN, GRID, GROUPS, HIGH, LANES, LEVELS, LOW, N_BLOCKS, N, SCRATCH, N_GRID, N_LEVELS, N_RECORD, N_STARTS, N_TOPS,
    SCALE_HIGH, SCALE_LOW, SIGNS, SIZE, STARTS, STEP, TOPS, UNIT, D, S,
)  # fmt: skip
from rwkv_edge_cpu.intrinsics import floats, int16s, int64s, uint8s, uint16s
from rwkv_edge_cpu.jit import kernel

# Arrays of the lanes:
XQ, QQ, ERROR, SCALE, INVERSE = (3 * N + i * LANES for i in range(5))  # what `nearest` and `errors` use
GAIN, OUTWARD, RUN_SCALE, S_OLD, S_NOW, S_BEST, XQ_BEST, QQ_BEST, ERROR_BEST = (3 * N + i * LANES for i in range(5, 14))
TOP, D_NOW, D_BEST, LEAST = (3 * N + i * LANES for i in range(14, 18))  # of blocks
D_LANES, ODD, CHEAPEST, LEAST_DISTANCE = (3 * N + i * LANES for i in range(18, 22))
FOUND = 3 * N + 22 * LANES  # rows of the grid, [size // 4, LANES]



@exact
def without_signs(r, f, first, count):
    """Store the signs and leave the magnitudes; see codebook.py for where one is negative."""
    groups, size = r[GROUPS], size_of(r)
    blocks = LANES // groups
    for eight in range(0, size, 8):
        for l in range(LANES):
            f[ODD + l], f[CHEAPEST + l], f[LEAST_DISTANCE + l] = ZERO, ZERO, INFINITY
        for i in range(eight, eight + 8):
            for l in range(LANES):
                x = f[i * LANES + l]
                cost = f[N + i * LANES + l] * (x * x)
                cheaper = cost < f[LEAST_DISTANCE + l]
                f[LEAST_DISTANCE + l] = cost if cheaper else f[LEAST_DISTANCE + l]
                f[CHEAPEST + l] = np.float32(i) if cheaper else f[CHEAPEST + l]
                f[ODD + l] = ONE - f[ODD + l] if x < ZERO else f[ODD + l]
        for g in range(groups):
            for b in range(blocks):
                l, bits = g * blocks + b, 0
                wrong = np.int64(f[CHEAPEST + l]) if r[EVEN] == 1 and f[ODD + l] == ONE else -1
                for i in range(eight, eight + 8):
                    x = f[i * LANES + l]
                    minus = (x < ZERO) != (i == wrong)
                    f[i * LANES + l] = -x if minus else x
                    bits += 1 << (i - eight) if minus else 0
                if b < count:
                    at = ((first + b) * groups + g) * (size // 8) + eight // 8
                    uint8s(r[SIGNS] + at, 1)[0] = np.uint8(bits)


@exact
def nearest_rows(r, f):
    """The rows of the grid that are nearest to the weights times INVERSE, by fours, as codes; in FOUND their numbers."""
    grid = floats(r[GRID], 4 * r[N_GRID])
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            f[2 * N + i + l] = f[i + l] * f[INVERSE + l]
    for four in range(size_of(r) // 4):
        at, w = 2 * N + four * 4 * LANES, N + four * 4 * LANES
        for l in range(LANES):
            f[LEAST_DISTANCE + l] = INFINITY
            f[FOUND + four * LANES + l] = ZERO
        for row in range(r[N_GRID]):
            g0, g1, g2, g3 = grid[4 * row], grid[4 * row + 1], grid[4 * row + 2], grid[4 * row + 3]
            number = np.float32(row)
            for l in range(LANES):
                miss0, miss1 = f[at + l] - g0, f[at + LANES + l] - g1
                miss2, miss3 = f[at + 2 * LANES + l] - g2, f[at + 3 * LANES + l] - g3
                distance = miss0 * miss0 * f[w + l] + miss1 * miss1 * f[w + LANES + l]
                distance = distance + miss2 * miss2 * f[w + 2 * LANES + l] + miss3 * miss3 * f[w + 3 * LANES + l]
                better = distance < f[LEAST_DISTANCE + l]
                f[LEAST_DISTANCE + l] = distance if better else f[LEAST_DISTANCE + l]
                f[FOUND + four * LANES + l] = number if better else f[FOUND + four * LANES + l]
        for l in range(LANES):
            row = np.int64(f[FOUND + four * LANES + l])
            for j in range(4):
                f[at + j * LANES + l] = grid[4 * row + j]


@exact
def nearest(r, f):
    """Codes of the weights times INVERSE."""
    if r[N_GRID] > 0:
        nearest_rows(r, f)
        return
    low, high = np.float32(r[LOW]), np.float32(r[HIGH])
    if r[N_LEVELS] == 0:
        for i in range(0, size_of(r) * LANES, LANES):
            for l in range(LANES):
                f[2 * N + i + l] = whole(f[i + l] * f[INVERSE + l], low, high)
        return
    levels = floats(r[LEVELS], r[N_LEVELS])
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            f[2 * N + i + l] = low
        for k in range(1, r[N_LEVELS]):
            rise, between = levels[k] - levels[k - 1], (levels[k] + levels[k - 1]) * HALF
            for l in range(LANES):
                f[2 * N + i + l] += rise if f[i + l] * f[INVERSE + l] > between else ZERO


@exact
def errors(r, f):
    """XQ and QQ of the codes, and the squared ERROR with SCALE."""
    for l in range(3 * LANES):
        f[XQ + l] = ZERO
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            x, w, q = f[i + l], f[N + i + l], f[2 * N + i + l]
            wq, miss = w * q, x - f[SCALE + l] * q
            f[XQ + l] += wq * x
            f[QQ + l] += wq * q
            f[ERROR + l] += w * (miss * miss)


@exact
def runs(r, f):
    """The best SCALE of each run."""
    starts, n_starts = floats(r[STARTS], r[N_STARTS]), r[N_STARTS]
    for l in range(LANES):
        f[OUTWARD + l] = f[l]
        f[GAIN + l] = ZERO
        f[SCALE + l] = ZERO
    for i in range(LANES, size_of(r) * LANES, LANES):
        for l in range(LANES):
            f[OUTWARD + l] = f[i + l] if abs(f[i + l]) > abs(f[OUTWARD + l]) else f[OUTWARD + l]
    for l in range(LANES):
        extreme = f[OUTWARD + l]
        f[OUTWARD + l] = divided(ONE, extreme if r[N_GRID] == 0 else abs(extreme))
    for turn in range(n_starts + TURNS):
        start = starts[min(turn, n_starts - 1)]
        for l in range(LANES):
            f[INVERSE + l] = start * f[OUTWARD + l] if turn < n_starts else divided(ONE, f[SCALE + l])
        nearest(r, f)
        errors(r, f)
        for l in range(LANES):
            xq, gain = f[XQ + l], f[GAIN + l]
            best = divided(xq, f[QQ + l])
            better = xq * best > gain
            f[GAIN + l] = xq * best if better else gain
            f[SCALE + l] = best if better else f[SCALE + l]


@exact
def choose(r, f):
    """From D_NOW and S_NOW: of each run's neighbours the best as S_NOW, and its ERROR_BEST, XQ_BEST, QQ_BEST."""
    groups = r[GROUPS]
    blocks = LANES // groups
    low, high, step = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), np.float32(r[STEP])
    for l in range(LANES):
        f[ERROR_BEST + l] = INFINITY
        f[S_OLD + l] = f[S_NOW + l]
    for g in range(0, LANES, blocks):
        for b in range(blocks):
            f[D_LANES + g + b] = f[D_NOW + b]
    for neighbour in range(3 if r[SCALE_HIGH] > 1 else 1):
        change = ZERO if neighbour == 0 else -step if neighbour == 1 else step
        for l in range(LANES):
            scale = f[D_LANES + l] * clipped(f[S_OLD + l] + change, low, high)
            f[SCALE + l] = scale
            f[INVERSE + l] = divided(ONE, scale)
        nearest(r, f)
        errors(r, f)
        for l in range(LANES):
            better = f[ERROR + l] < f[ERROR_BEST + l]
            s = clipped(f[S_OLD + l] + change, low, high)
            f[S_NOW + l] = s if better else f[S_NOW + l]
            f[ERROR_BEST + l] = f[ERROR + l] if better else f[ERROR_BEST + l]
            f[XQ_BEST + l] = f[XQ + l] if better else f[XQ_BEST + l]
            f[QQ_BEST + l] = f[QQ + l] if better else f[QQ_BEST + l]


@exact
def fit(r, f):
    """D_BEST and S_BEST from the runs' SCALE."""
    groups = r[GROUPS]
    blocks, tops, unit = LANES // groups, floats(r[TOPS], r[N_TOPS]), np.float32(r[UNIT])
    low, step = np.float32(r[SCALE_LOW]), np.float32(r[STEP])
    steps = np.float32((r[SCALE_HIGH] - r[SCALE_LOW]) // r[STEP])
    for l in range(LANES):
        f[RUN_SCALE + l] = f[SCALE + l]
        f[S_BEST + l] = ONE
        f[D_BEST + l] = ZERO
        f[LEAST + l] = INFINITY
    for b in range(blocks):
        top = f[SCALE + b]
        for g in range(blocks, LANES, blocks):
            top = f[SCALE + g + b] if abs(f[SCALE + g + b]) > abs(top) else top
        f[TOP + b] = top
    for start in range(r[N_TOPS]):
        for b in range(blocks):
            d = half(f[TOP + b] * tops[start], unit)
            f[D_NOW + b] = d
            for g in range(0, LANES, blocks):
                v = f[RUN_SCALE + g + b] * divided(ONE, d)
                f[S_NOW + g + b] = whole((v - low) * (ONE / step), ZERO, steps) * step + low
        for _ in range(ROUNDS):
            choose(r, f)
            for b in range(blocks):
                error, xs, ss = ZERO, ZERO, ZERO
                for g in range(0, LANES, blocks):
                    s = f[S_NOW + g + b]
                    error += f[ERROR_BEST + g + b]
                    xs += s * f[XQ_BEST + g + b]
                    ss += s * s * f[QQ_BEST + g + b]
                if error < f[LEAST + b]:
                    f[LEAST + b] = error
                    f[D_BEST + b] = f[D_NOW + b]
                    for g in range(0, LANES, blocks):
                        f[S_BEST + g + b] = f[S_NOW + g + b]
                f[D_NOW + b] = half(divided(xs, ss), unit)


@exact
def store(r, f, first, count):
    """d and s, and the codes that are nearest then."""
    groups, size = r[GROUPS], size_of(r)
    blocks = LANES // groups
    for g in range(0, LANES, blocks):
        for b in range(blocks):
            f[INVERSE + g + b] = divided(ONE, f[D_BEST + b] * f[S_BEST + g + b])
    nearest(r, f)
    for b in range(count):
        floats(r[D] + 4 * (first + b), 1)[0] = f[D_BEST + b] * np.float32(r[UNIT]) + ZERO
        s = int16s(r[S] + 2 * (first + b) * groups, groups)
        for g in range(groups):
            s[g] = np.int16(f[S_BEST + g * blocks + b])
        if r[N_GRID] > 0:
            rows = uint16s(r[CODES] + (first + b) * groups * size // 2, groups * size // 4)
            for i in range(groups * size // 4):
                rows[i] = np.uint16(f[FOUND + i % (size // 4) * LANES + i // (size // 4) * blocks + b])
        else:
            codes = uint8s(r[CODES] + (first + b) * groups * size, groups * size)
            for i in range(groups * size):
                codes[i] = code_of(r, f[2 * N + i % size * LANES + i // size * blocks + b])


@exactly
def code_of(r, q):
    if r[N_LEVELS] == 0:
        return np.uint8(np.int64(q) - r[LOW])
    levels, code = floats(r[LEVELS], r[N_LEVELS]), 0
    for k in range(1, r[N_LEVELS]):
        code += 1 if q >= levels[k] else 0
    return np.uint8(code)


@kernel(frozenset())
def search(record, frame, scratch, begin, end):
    """Units: LANES runs."""
    r = int64s(record, N_RECORD)
    f = floats(scratch, SCRATCH)
    blocks = LANES // r[GROUPS]
    for chunk in range(begin, end):
        first = chunk * blocks
        count = min(blocks, r[N_BLOCKS] - first)
        load(r, f, first, count)
        if r[N_GRID] > 0:
            without_signs(r, f, first, count)
        runs(r, f)
        fit(r, f)
        store(r, f, first, count)
