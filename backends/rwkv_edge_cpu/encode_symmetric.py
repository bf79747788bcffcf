"""The search of quant/encode/symmetric.py and codebook.py, compiled."""
# mypy: allow-untyped-defs
import numpy as np

from rwkv_edge_cpu.encode_lanes import HALF, INFINITY, ONE, ZERO, clipped, divided, exact, exactly, half, load, size_of, whole

from rwkv_edge_cpu.encode_layout import (  # isort: skip
    CODES, EVEN, GRID, GROUPS, HIGH, LANES, LEVELS, LOW, NEIGHBOURS, N_BLOCKS, N_GRID, N_LEVELS, N_NEIGHBOURS, N_RECORD,
    N_STARTS, N_TOPS, ROUNDS, SCALE_HIGH, SCALE_LOW, SCRATCH, SIGNS, STARTS, STEP, TOPS, TURNS, UNIT, D, N, S,
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
        for j in range(LANES):
            f[ODD + j], f[CHEAPEST + j], f[LEAST_DISTANCE + j] = ZERO, ZERO, INFINITY
        for i in range(eight, eight + 8):
            for j in range(LANES):
                x = f[i * LANES + j]
                cost = f[N + i * LANES + j] * (x * x)
                cheaper = cost < f[LEAST_DISTANCE + j]
                f[LEAST_DISTANCE + j] = cost if cheaper else f[LEAST_DISTANCE + j]
                f[CHEAPEST + j] = np.float32(i) if cheaper else f[CHEAPEST + j]
                f[ODD + j] = ONE - f[ODD + j] if x < ZERO else f[ODD + j]
        for g in range(groups):
            for b in range(blocks):
                j, bits = g * blocks + b, 0
                wrong = np.int64(f[CHEAPEST + j]) if r[EVEN] == 1 and f[ODD + j] == ONE else -1
                for i in range(eight, eight + 8):
                    x = f[i * LANES + j]
                    minus = (x < ZERO) != (i == wrong)
                    f[i * LANES + j] = -x if minus else x
                    bits += 1 << (i - eight) if minus else 0
                if b < count:
                    at = ((first + b) * groups + g) * (size // 8) + eight // 8
                    uint8s(r[SIGNS] + at, 1)[0] = np.uint8(bits)


@exact
def nearest_rows(r, f):
    """The rows of the grid that are nearest to the weights times INVERSE, by fours, as codes; in FOUND their numbers."""
    grid = floats(r[GRID], 4 * r[N_GRID])
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[2 * N + i + j] = f[i + j] * f[INVERSE + j]
    for four in range(size_of(r) // 4):
        at, w = 2 * N + four * 4 * LANES, N + four * 4 * LANES
        for j in range(LANES):
            f[LEAST_DISTANCE + j] = INFINITY
            f[FOUND + four * LANES + j] = ZERO
        for row in range(r[N_GRID]):
            g0, g1, g2, g3 = grid[4 * row], grid[4 * row + 1], grid[4 * row + 2], grid[4 * row + 3]
            number = np.float32(row)
            for j in range(LANES):
                miss0, miss1 = f[at + j] - g0, f[at + LANES + j] - g1
                miss2, miss3 = f[at + 2 * LANES + j] - g2, f[at + 3 * LANES + j] - g3
                distance = miss0 * miss0 * f[w + j] + miss1 * miss1 * f[w + LANES + j]
                distance = distance + miss2 * miss2 * f[w + 2 * LANES + j] + miss3 * miss3 * f[w + 3 * LANES + j]
                better = distance < f[LEAST_DISTANCE + j]
                f[LEAST_DISTANCE + j] = distance if better else f[LEAST_DISTANCE + j]
                f[FOUND + four * LANES + j] = number if better else f[FOUND + four * LANES + j]
        for j in range(LANES):
            row = np.int64(f[FOUND + four * LANES + j])
            for k in range(4):
                f[at + k * LANES + j] = grid[4 * row + k]


@exact
def nearest(r, f):
    """Codes of the weights times INVERSE."""
    if r[N_GRID] > 0:
        nearest_rows(r, f)
        return
    low, high = np.float32(r[LOW]), np.float32(r[HIGH])
    if r[N_LEVELS] == 0:
        for i in range(0, size_of(r) * LANES, LANES):
            for j in range(LANES):
                f[2 * N + i + j] = whole(f[i + j] * f[INVERSE + j], low, high)
        return
    levels = floats(r[LEVELS], r[N_LEVELS])
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[2 * N + i + j] = low
        for k in range(1, r[N_LEVELS]):
            rise, between = levels[k] - levels[k - 1], (levels[k] + levels[k - 1]) * HALF
            for j in range(LANES):
                f[2 * N + i + j] += rise if f[i + j] * f[INVERSE + j] > between else ZERO


@exact
def errors(r, f):
    """XQ and QQ of the codes, and the squared ERROR with SCALE."""
    for j in range(3 * LANES):
        f[XQ + j] = ZERO
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            x, w, q = f[i + j], f[N + i + j], f[2 * N + i + j]
            wq, miss = w * q, x - f[SCALE + j] * q
            f[XQ + j] += wq * x
            f[QQ + j] += wq * q
            f[ERROR + j] += w * (miss * miss)


@exact
def runs(r, f):
    """The best SCALE of each run."""
    starts, n_starts = floats(r[STARTS], r[N_STARTS]), r[N_STARTS]
    for j in range(LANES):
        f[OUTWARD + j] = f[j]
        f[GAIN + j] = ZERO
        f[SCALE + j] = ZERO
    for i in range(LANES, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[OUTWARD + j] = f[i + j] if abs(f[i + j]) > abs(f[OUTWARD + j]) else f[OUTWARD + j]
    for j in range(LANES):
        extreme = f[OUTWARD + j]
        f[OUTWARD + j] = divided(ONE, extreme if r[N_GRID] == 0 else abs(extreme))
    for turn in range(n_starts + r[TURNS]):
        start = starts[min(turn, n_starts - 1)]
        for j in range(LANES):
            f[INVERSE + j] = start * f[OUTWARD + j] if turn < n_starts else divided(ONE, f[SCALE + j])
        nearest(r, f)
        errors(r, f)
        for j in range(LANES):
            xq, gain = f[XQ + j], f[GAIN + j]
            best = divided(xq, f[QQ + j])
            better = xq * best > gain
            f[GAIN + j] = xq * best if better else gain
            f[SCALE + j] = best if better else f[SCALE + j]


@exact
def choose(r, f):
    """From D_NOW and S_NOW: of each run's neighbours the best as S_NOW, and its ERROR_BEST, XQ_BEST, QQ_BEST."""
    groups = r[GROUPS]
    blocks = LANES // groups
    low, high, neighbours = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), floats(r[NEIGHBOURS], 2 * r[N_NEIGHBOURS])
    for j in range(LANES):
        f[ERROR_BEST + j] = INFINITY
        f[S_OLD + j] = f[S_NOW + j]
    for g in range(0, LANES, blocks):
        for b in range(blocks):
            f[D_LANES + g + b] = f[D_NOW + b]
    for neighbour in range(r[N_NEIGHBOURS]):
        change = neighbours[2 * neighbour]
        for j in range(LANES):
            scale = f[D_LANES + j] * clipped(f[S_OLD + j] + change, low, high)
            f[SCALE + j] = scale
            f[INVERSE + j] = divided(ONE, scale)
        nearest(r, f)
        errors(r, f)
        for j in range(LANES):
            better = f[ERROR + j] < f[ERROR_BEST + j]
            s = clipped(f[S_OLD + j] + change, low, high)
            f[S_NOW + j] = s if better else f[S_NOW + j]
            f[ERROR_BEST + j] = f[ERROR + j] if better else f[ERROR_BEST + j]
            f[XQ_BEST + j] = f[XQ + j] if better else f[XQ_BEST + j]
            f[QQ_BEST + j] = f[QQ + j] if better else f[QQ_BEST + j]


@exact
def fit(r, f):
    """D_BEST and S_BEST from the runs' SCALE."""
    groups = r[GROUPS]
    blocks, tops, unit = LANES // groups, floats(r[TOPS], 2 * r[N_TOPS]), np.float32(r[UNIT])
    low, step = np.float32(r[SCALE_LOW]), np.float32(r[STEP])
    steps = np.float32((r[SCALE_HIGH] - r[SCALE_LOW]) // r[STEP])
    for j in range(LANES):
        f[RUN_SCALE + j] = f[SCALE + j]
        f[S_BEST + j] = ONE
        f[D_BEST + j] = ZERO
        f[LEAST + j] = INFINITY
    for b in range(blocks):
        top = f[SCALE + b]
        for g in range(blocks, LANES, blocks):
            top = f[SCALE + g + b] if abs(f[SCALE + g + b]) > abs(top) else top
        f[TOP + b] = top
    for start in range(r[N_TOPS]):
        for b in range(blocks):
            d = half(f[TOP + b] * tops[2 * start], unit)
            f[D_NOW + b] = d
            for g in range(0, LANES, blocks):
                v = f[RUN_SCALE + g + b] * divided(ONE, d)
                f[S_NOW + g + b] = whole((v - low) * (ONE / step), ZERO, steps) * step + low
        for _ in range(r[ROUNDS]):
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
