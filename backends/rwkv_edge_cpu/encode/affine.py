"""The search of quant/encode/affine.py, compiled."""
import numpy as np

from rwkv_edge.quant.encode.affine import SINGULAR
from rwkv_edge_cpu.code.intrinsics import floats, int16s, int64s, uint8s
from rwkv_edge_cpu.code.jit import kernel
from rwkv_edge_cpu.encode.lanes import (
    INFINITY,
    ONE,
    ZERO,
    at_least_half,
    clipped,
    divided,
    exact,
    growth,
    half,
    load,
    size_of,
    squares,
    whole,
)
from rwkv_edge_cpu.encode.layout import (
    CODES,
    DMIN,
    GROUPS,
    HIGH,
    INVERSE,
    LANES,
    N_BLOCKS,
    N_NEIGHBOURS,
    N_RECORD,
    N_STARTS,
    N_TOPS,
    NEIGHBOURS,
    OFFSET_HIGH,
    ROUNDS,
    SCALE_HIGH,
    SCALE_LOW,
    SCRATCH,
    STARTS,
    TOPS,
    TURNS,
    D,
    M,
    N,
    S,
)

TWO = np.float32(2)

# Arrays of the lanes:
SQ, SQQ, SXQ, ERROR, SCALE, OFFSET, SW, SX, SXX = (INVERSE + i * LANES for i in range(1, 10))
LEAST, RUN_SCALE, RUN_OFFSET, LOWEST, REACH, SHIFTED = (3 * N + i * LANES for i in range(10, 16))
S_OLD, S_NOW, S_BEST, M_OLD, M_NOW, M_BEST = (3 * N + i * LANES for i in range(16, 22))
SQ_BEST, SQQ_BEST, SXQ_BEST, ERROR_BEST, D_LANES, DMIN_LANES = (3 * N + i * LANES for i in range(22, 28))
TOP, TOP_OFFSET, D_NOW, D_BEST, DMIN_NOW, DMIN_BEST, LEAST_SUM = (3 * N + i * LANES for i in range(28, 35))  # of blocks


@exact
def sums(r, f):
    """Codes of the weights plus OFFSET times INVERSE; SQ, SQQ and SXQ of these, and the squared ERROR with SCALE and OFFSET."""
    high = np.float32(r[HIGH])
    for j in range(4 * LANES):
        f[SQ + j] = ZERO
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            x, w = f[i + j], f[N + i + j]
            y = x + f[OFFSET + j]
            q = whole(y * f[INVERSE + j], ZERO, high)
            wq, miss = w * q, y - f[SCALE + j] * q
            f[SQ + j] += wq
            f[SQQ + j] += wq * q
            f[SXQ + j] += wq * x
            f[ERROR + j] += w * (miss * miss)


@exact
def from_lowest(r, f):
    """Count the weights from LOWEST, and how they spread: REACH, and SW, SX, SXX."""
    signed = r[OFFSET_HIGH] == 1
    for j in range(LANES):
        f[LOWEST + j], f[REACH + j] = f[j], f[j]
        f[SW + j], f[SX + j], f[SXX + j] = ZERO, ZERO, ZERO
    for i in range(LANES, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[LOWEST + j] = f[i + j] if f[i + j] < f[LOWEST + j] else f[LOWEST + j]
            f[REACH + j] = f[i + j] if f[i + j] > f[REACH + j] else f[REACH + j]
    for j in range(LANES):
        f[LOWEST + j] = f[LOWEST + j] if signed or f[LOWEST + j] < ZERO else ZERO
        f[REACH + j] -= f[LOWEST + j]
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            x, w = f[i + j] - f[LOWEST + j], f[N + i + j]
            f[i + j] = x
            f[SW + j] += w
            f[SX + j] += w * x
            f[SXX + j] += w * x * x


@exact
def better_run(f, signed):
    """Least squares for the codes; RUN_SCALE and SHIFTED where it beats LEAST."""
    for j in range(LANES):
        sw, sy, syy, sq, sqq, syq = f[SW + j], f[SX + j], f[SXX + j], f[SQ + j], f[SQQ + j], f[SXQ + j]
        det = sw * sqq - sq * sq
        alike = det <= sw * sqq * SINGULAR
        a = divided(syq, sqq) if alike else divided(sw * syq - sy * sq, det)
        b = ZERO if alike else divided(sqq * sy - sq * syq, det)
        over = not signed and b > -f[LOWEST + j]
        capped = divided(syq + f[LOWEST + j] * sq, sqq)
        a, b = capped if over else a, -f[LOWEST + j] if over else b
        error = syy + a * (a * sqq - (syq + syq)) + b * (b * sw + (a * sq - sy) * TWO)
        better = error < f[LEAST + j]
        f[LEAST + j] = error if better else f[LEAST + j]
        f[RUN_SCALE + j] = a if better else f[RUN_SCALE + j]
        f[SHIFTED + j] = b if better else f[SHIFTED + j]


@exact
def runs(r, f):
    """RUN_SCALE and RUN_OFFSET, the best of each run. Leaves the weights counted from LOWEST."""
    signed, starts, n_starts = r[OFFSET_HIGH] == 1, floats(r[STARTS], 2 * r[N_STARTS]), r[N_STARTS]
    from_lowest(r, f)
    for j in range(LANES):
        f[LEAST + j], f[RUN_SCALE + j], f[SHIFTED + j], f[SCALE + j] = INFINITY, ZERO, ZERO, ZERO
    for turn in range(n_starts + r[TURNS]):
        trying, at = turn < n_starts, 2 * min(turn, n_starts - 1)
        start, shift = starts[at], starts[at + 1]
        for j in range(LANES):
            f[INVERSE + j] = start * divided(ONE, f[REACH + j]) if trying else divided(ONE, f[RUN_SCALE + j])
            f[OFFSET + j] = -(f[REACH + j] * shift) if trying else -f[SHIFTED + j]
        sums(r, f)
        better_run(f, signed)
    for j in range(LANES):
        f[RUN_OFFSET + j] = -(f[LOWEST + j] + f[SHIFTED + j])


@exact
def choose(r, f):
    """From D_NOW, DMIN_NOW, S_NOW and M_NOW: of each run's neighbours the best as S_NOW and M_NOW, and its sums."""
    groups = r[GROUPS]
    blocks, neighbours = LANES // groups, floats(r[NEIGHBOURS], 2 * r[N_NEIGHBOURS])
    low, high, highest = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), np.float32(r[OFFSET_HIGH])
    for group in range(groups):
        g = group * blocks
        for b in range(blocks):
            f[D_LANES + g + b] = f[D_NOW + b]
            f[DMIN_LANES + g + b] = f[DMIN_NOW + b]
    for j in range(LANES):
        f[ERROR_BEST + j], f[S_OLD + j], f[M_OLD + j] = INFINITY, f[S_NOW + j], f[M_NOW + j]
    for neighbour in range(r[N_NEIGHBOURS]):
        ds, dm = neighbours[2 * neighbour], neighbours[2 * neighbour + 1]
        for j in range(LANES):
            scale = f[D_LANES + j] * clipped(f[S_OLD + j] + ds, low, high)
            f[SCALE + j] = scale
            f[INVERSE + j] = divided(ONE, scale)
            f[OFFSET + j] = f[DMIN_LANES + j] * clipped(f[M_OLD + j] + dm, ZERO, highest)
        sums(r, f)
        for j in range(LANES):
            better = f[ERROR + j] < f[ERROR_BEST + j]
            f[S_NOW + j] = clipped(f[S_OLD + j] + ds, low, high) if better else f[S_NOW + j]
            f[M_NOW + j] = clipped(f[M_OLD + j] + dm, ZERO, highest) if better else f[M_NOW + j]
            f[ERROR_BEST + j] = f[ERROR + j] if better else f[ERROR_BEST + j]
            f[SQ_BEST + j] = f[SQ + j] if better else f[SQ_BEST + j]
            f[SQQ_BEST + j] = f[SQQ + j] if better else f[SQQ_BEST + j]
            f[SXQ_BEST + j] = f[SXQ + j] if better else f[SXQ_BEST + j]


@exact
def settle(r, f):
    """Keep what was chosen where its error is the least so far; D_NOW and DMIN_NOW become those of least squares."""
    groups = r[GROUPS]
    blocks, signed = LANES // groups, r[OFFSET_HIGH] == 1
    for b in range(blocks):
        error, aa, ab, bb, xa, xb = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
        for group in range(groups):
            j = group * blocks + b
            s, m = f[S_NOW + j], f[M_NOW + j]
            error += f[ERROR_BEST + j]
            aa += s * s * f[SQQ_BEST + j]
            ab += s * m * f[SQ_BEST + j]
            bb += m * m * f[SW + j]
            xa += s * f[SXQ_BEST + j]
            xb += m * f[SX + j]
        dmin = f[DMIN_NOW + b]
        if error < f[LEAST_SUM + b]:
            f[LEAST_SUM + b], f[D_BEST + b], f[DMIN_BEST + b] = error, f[D_NOW + b], dmin
            for group in range(groups):
                j = group * blocks + b
                f[S_BEST + j], f[M_BEST + j] = f[S_NOW + j], f[M_NOW + j]
        det = aa * bb - ab * ab
        is_open = det <= aa * bb * SINGULAR
        d = divided(xa + dmin * ab, aa) if is_open else divided(xa * bb - xb * ab, det)
        dmin = half(dmin if is_open else divided(xa * ab - xb * aa, det), ONE)
        f[D_NOW + b] = half(d, ONE)
        f[DMIN_NOW + b] = dmin if signed or dmin > ZERO else ZERO


@exact
def fit(r, f):
    """D_BEST, S_BEST, DMIN_BEST and M_BEST from the runs' scales and offsets."""
    signed, tops, groups = r[OFFSET_HIGH] == 1, floats(r[TOPS], 2 * r[N_TOPS]), r[GROUPS]
    blocks = LANES // groups
    low, high, highest = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), np.float32(r[OFFSET_HIGH])
    for j in range(LANES):
        f[SX + j], f[LEAST_SUM + j], f[D_BEST + j], f[DMIN_BEST + j] = ZERO, INFINITY, ZERO, ZERO
        f[S_BEST + j], f[M_BEST + j] = ONE, ONE
        f[TOP + j], f[TOP_OFFSET + j] = f[RUN_SCALE + j], f[RUN_OFFSET + j]
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[SX + j] += f[N + i + j] * f[i + j]
    for j in range(blocks, LANES):
        b = j % blocks
        f[TOP + b] = max(f[TOP + b], f[RUN_SCALE + j])
        f[TOP_OFFSET + b] = max(f[TOP_OFFSET + b], f[RUN_OFFSET + j])
    for start in range(r[N_TOPS]):
        for b in range(blocks):
            d = at_least_half(f[TOP + b] * tops[2 * start], ONE)
            dmin = at_least_half(f[TOP_OFFSET + b] * tops[2 * start + 1], ONE)
            f[D_NOW + b], f[DMIN_NOW + b] = d, dmin
            for group in range(groups):
                j = group * blocks + b
                f[S_NOW + j] = whole(f[RUN_SCALE + j] * divided(ONE, d), low, high)
                f[M_NOW + j] = whole(f[RUN_OFFSET + j] * divided(ONE, dmin), ONE if signed else ZERO, highest)
        for _ in range(r[ROUNDS]):
            choose(r, f)
            settle(r, f)


@exact
def store(r, f, first, count):
    groups, size = r[GROUPS], size_of(r)
    blocks, high = LANES // groups, np.float32(r[HIGH])
    for g in range(groups):
        for b in range(blocks):
            j = g * blocks + b
            f[OFFSET + j] = f[DMIN_BEST + b] * f[M_BEST + j]
            f[INVERSE + j] = divided(ONE, f[D_BEST + b] * f[S_BEST + j])
    sums(r, f)
    squares(r, f, SXX)
    for b in range(count):
        d, dmin, xx, xs, xm = f[D_BEST + b], f[DMIN_BEST + b], ZERO, ZERO, ZERO
        s, m = int16s(r[S] + 2 * (first + b) * groups, groups), uint8s(r[M] + (first + b) * groups, groups)
        codes = uint8s(r[CODES] + (first + b) * groups * size, groups * size)
        for g in range(groups):
            j = g * blocks + b
            s[g], m[g] = np.int16(f[S_BEST + j]), np.uint8(f[M_BEST + j])
            xx += f[SXX + j]
            xs += f[S_BEST + j] * f[SXQ + j]
            xm += f[M_BEST + j] * f[SX + j]
            for i in range(size):
                codes[g * size + i] = np.uint8(whole((f[i * LANES + j] + f[OFFSET + j]) * f[INVERSE + j], ZERO, high))
        more = growth(xx, d * xs - dmin * xm)
        floats(r[D] + 4 * (first + b), 1)[0] = half(d * more, ONE) + ZERO
        floats(r[DMIN] + 4 * (first + b), 1)[0] = half(dmin * more, ONE) + ZERO


@kernel(frozenset())
def search(record, frame, scratch, begin, end):
    """Units: LANES runs."""
    r, f = int64s(record, N_RECORD), floats(scratch, SCRATCH)
    blocks = LANES // r[GROUPS]
    for chunk in range(begin, end):
        first = chunk * blocks
        count = min(blocks, r[N_BLOCKS] - first)
        load(r, f, first, count)
        runs(r, f)
        load(r, f, first, count)
        fit(r, f)
        store(r, f, first, count)
