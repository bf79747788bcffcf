"""The search of quant/encode/symmetric.py and codebook.py, compiled."""
import numpy as np

from rwkv_edge_cpu.code.intrinsics import floats, int16s, int64s, uint8s, uint16s
from rwkv_edge_cpu.code.jit import kernel
from rwkv_edge_cpu.encode.grid import FOUND, nearest_rows, without_signs
from rwkv_edge_cpu.encode.lanes import (
    HALF,
    INFINITY,
    ONE,
    ZERO,
    at_least_half,
    clipped,
    divided,
    exact,
    exactly,
    growth,
    half,
    load,
    size_of,
    squares,
    whole,
)
from rwkv_edge_cpu.encode.layout import (
    CODES,
    GROUPS,
    HIGH,
    INVERSE,
    LANES,
    LEVELS,
    LOW,
    N_BLOCKS,
    N_GRID,
    N_LEVELS,
    N_NEIGHBOURS,
    N_RECORD,
    N_STARTS,
    N_TOPS,
    NEIGHBOURS,
    ROUNDS,
    SCALE_HIGH,
    SCALE_LOW,
    SCRATCH,
    STARTS,
    STEP,
    TOPS,
    TURNS,
    UNIT,
    D,
    N,
    S,
)

# Arrays of the lanes:
XQ, QQ, ERROR, SCALE = (INVERSE + i * LANES for i in range(1, 5))
GAIN, OUTWARD, RUN_SCALE, S_OLD, S_NOW, S_BEST, XQ_BEST, QQ_BEST, ERROR_BEST = (3 * N + i * LANES for i in range(5, 14))
TOP, D_NOW, D_BEST, LEAST = (3 * N + i * LANES for i in range(14, 18))  # of blocks
D_LANES = 3 * N + 18 * LANES


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
    for group in range(groups):
        g = group * blocks
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
        for group in range(1, groups):
            g = group * blocks
            top = f[SCALE + g + b] if abs(f[SCALE + g + b]) > abs(top) else top
        f[TOP + b] = top
    for start in range(r[N_TOPS]):
        for b in range(blocks):
            d = at_least_half(f[TOP + b] * tops[2 * start], unit)
            f[D_NOW + b] = d
            for group in range(groups):
                g = group * blocks
                v = f[RUN_SCALE + g + b] * divided(ONE, d)
                f[S_NOW + g + b] = whole((v - low) * (ONE / step), ZERO, steps) * step + low
        for _ in range(r[ROUNDS]):
            choose(r, f)
            for b in range(blocks):
                error, xs, ss = ZERO, ZERO, ZERO
                for group in range(groups):
                    g = group * blocks
                    s = f[S_NOW + g + b]
                    error += f[ERROR_BEST + g + b]
                    xs += s * f[XQ_BEST + g + b]
                    ss += s * s * f[QQ_BEST + g + b]
                if error < f[LEAST + b]:
                    f[LEAST + b] = error
                    f[D_BEST + b] = f[D_NOW + b]
                    for group in range(groups):
                        g = group * blocks
                        f[S_BEST + g + b] = f[S_NOW + g + b]
                f[D_NOW + b] = half(divided(xs, ss), unit)


@exact
def store(r, f, first, count):
    """d and s, and the codes that are nearest then."""
    groups, size = r[GROUPS], size_of(r)
    blocks = LANES // groups
    for group in range(groups):
        g = group * blocks
        for b in range(blocks):
            f[INVERSE + g + b] = divided(ONE, f[D_BEST + b] * f[S_BEST + g + b])
    nearest(r, f)
    errors(r, f)
    squares(r, f, ERROR)
    unit = np.float32(r[UNIT])
    for b in range(count):
        xx, xs = ZERO, ZERO
        for g in range(groups):
            xx += f[ERROR + g * blocks + b]
            xs += f[S_BEST + g * blocks + b] * f[XQ + g * blocks + b]
        d = f[D_BEST + b]
        floats(r[D] + 4 * (first + b), 1)[0] = half(d * growth(xx, d * xs), unit) * unit + ZERO
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
