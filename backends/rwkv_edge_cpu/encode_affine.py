"""The search of quant/encode/affine.py, compiled."""
# mypy: allow-untyped-defs
import numpy as np

from rwkv_edge.quant.encode.affine import NEIGHBOURS, ROUNDS, SHIFTS, SINGULAR, TURNS
from rwkv_edge_cpu.encode_lanes import INFINITY, ONE, ZERO, clipped, divided, exact, half, load, size_of, whole
from rwkv_edge_cpu.encode_layout import (
    CODES, DMIN, GROUPS, HIGH, LANES, N_BLOCKS, N_RECORD, N_STARTS, N_TOPS, OFFSET_HIGH, SCALE_HIGH, SCALE_LOW, SCRATCH,
    STARTS, TOPS, D, M, N, S,
)  # fmt: skip
from rwkv_edge_cpu.intrinsics import floats, int16s, int64s, uint8s
from rwkv_edge_cpu.jit import kernel

TWO = np.float32(2)
N_SHIFTS, N_NEIGHBOURS = len(SHIFTS), len(NEIGHBOURS)
CHANGE_S = tuple(np.float32(s) for s, _ in NEIGHBOURS)
CHANGE_M = tuple(np.float32(m) for _, m in NEIGHBOURS)

# Arrays of the lanes:
SQ, SQQ, SXQ, ERROR, SCALE, OFFSET, INVERSE, SW, SX, SXX = (3 * N + i * LANES for i in range(10))
LEAST, RUN_SCALE, RUN_OFFSET, LOWEST, REACH, SHIFTED = (3 * N + i * LANES for i in range(10, 16))
S_OLD, S_NOW, S_BEST, M_OLD, M_NOW, M_BEST = (3 * N + i * LANES for i in range(16, 22))
SQ_BEST, SQQ_BEST, SXQ_BEST, ERROR_BEST, D_LANES, DMIN_LANES = (3 * N + i * LANES for i in range(22, 28))
TOP, TOP_OFFSET, D_NOW, D_BEST, DMIN_NOW, DMIN_BEST, LEAST_SUM = (3 * N + i * LANES for i in range(28, 35))  # of blocks


@exact
def sums(r, f):
    """Codes of the weights plus OFFSET times INVERSE; SQ, SQQ and SXQ of these, and the squared ERROR with SCALE and OFFSET."""
    high = np.float32(r[HIGH])
    for l in range(4 * LANES):
        f[SQ + l] = ZERO
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            x, w = f[i + l], f[N + i + l]
            y = x + f[OFFSET + l]
            q = whole(y * f[INVERSE + l], ZERO, high)
            wq, miss = w * q, y - f[SCALE + l] * q
            f[SQ + l] += wq
            f[SQQ + l] += wq * q
            f[SXQ + l] += wq * x
            f[ERROR + l] += w * (miss * miss)


@exact
def from_lowest(r, f):
    """Count the weights from LOWEST, and how they spread: REACH, and SW, SX, SXX."""
    signed = r[OFFSET_HIGH] == 1
    for l in range(LANES):
        f[LOWEST + l], f[REACH + l] = f[l], f[l]
        f[SW + l], f[SX + l], f[SXX + l] = ZERO, ZERO, ZERO
    for i in range(LANES, size_of(r) * LANES, LANES):
        for l in range(LANES):
            f[LOWEST + l] = f[i + l] if f[i + l] < f[LOWEST + l] else f[LOWEST + l]
            f[REACH + l] = f[i + l] if f[i + l] > f[REACH + l] else f[REACH + l]
    for l in range(LANES):
        f[LOWEST + l] = f[LOWEST + l] if signed or f[LOWEST + l] < ZERO else ZERO
        f[REACH + l] -= f[LOWEST + l]
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            x, w = f[i + l] - f[LOWEST + l], f[N + i + l]
            f[i + l] = x
            f[SW + l] += w
            f[SX + l] += w * x
            f[SXX + l] += w * x * x


@exact
def better_run(f, signed):
    """Least squares for the codes; RUN_SCALE and SHIFTED where it beats LEAST."""
    for l in range(LANES):
        sw, sy, syy, sq, sqq, syq = f[SW + l], f[SX + l], f[SXX + l], f[SQ + l], f[SQQ + l], f[SXQ + l]
        det = sw * sqq - sq * sq
        a, b = divided(sw * syq - sy * sq, det), divided(sqq * sy - sq * syq, det)
        over = not signed and b > -f[LOWEST + l]
        capped = divided(syq + f[LOWEST + l] * sq, sqq)
        a, b = capped if over else a, -f[LOWEST + l] if over else b
        error = syy + a * (a * sqq - (syq + syq)) + b * (b * sw + (a * sq - sy) * TWO)
        better = error < f[LEAST + l]
        f[LEAST + l] = error if better else f[LEAST + l]
        f[RUN_SCALE + l] = a if better else f[RUN_SCALE + l]
        f[SHIFTED + l] = b if better else f[SHIFTED + l]


@exact
def runs(r, f):
    """RUN_SCALE and RUN_OFFSET, the best of each run. Leaves the weights counted from LOWEST."""
    signed, starts, n_starts = r[OFFSET_HIGH] == 1, floats(r[STARTS], r[N_STARTS]), r[N_STARTS]
    from_lowest(r, f)
    for l in range(LANES):
        f[LEAST + l], f[RUN_SCALE + l], f[SHIFTED + l], f[SCALE + l] = INFINITY, ZERO, ZERO, ZERO
    for turn in range(n_starts * N_SHIFTS + TURNS):
        trying = turn < n_starts * N_SHIFTS
        start = starts[min(turn // N_SHIFTS, n_starts - 1)]
        shift = np.float32(SHIFTS[turn % N_SHIFTS] / np.float64(start))
        for l in range(LANES):
            f[INVERSE + l] = start * divided(ONE, f[REACH + l]) if trying else divided(ONE, f[RUN_SCALE + l])
            f[OFFSET + l] = -(f[REACH + l] * shift) if trying else -f[SHIFTED + l]
        sums(r, f)
        better_run(f, signed)
    for l in range(LANES):
        f[RUN_OFFSET + l] = -(f[LOWEST + l] + f[SHIFTED + l])


@exact
def choose(r, f):
    """From D_NOW, DMIN_NOW, S_NOW and M_NOW: of each run's neighbours the best as S_NOW and M_NOW, and its sums."""
    blocks = LANES // r[GROUPS]
    low, high, highest = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), np.float32(r[OFFSET_HIGH])
    for g in range(0, LANES, blocks):
        for b in range(blocks):
            f[D_LANES + g + b] = f[D_NOW + b]
            f[DMIN_LANES + g + b] = f[DMIN_NOW + b]
    for l in range(LANES):
        f[ERROR_BEST + l], f[S_OLD + l], f[M_OLD + l] = INFINITY, f[S_NOW + l], f[M_NOW + l]
    for neighbour in range(N_NEIGHBOURS if r[SCALE_HIGH] > 1 else 1):
        ds, dm = CHANGE_S[neighbour], CHANGE_M[neighbour]
        for l in range(LANES):
            scale = f[D_LANES + l] * clipped(f[S_OLD + l] + ds, low, high)
            f[SCALE + l] = scale
            f[INVERSE + l] = divided(ONE, scale)
            f[OFFSET + l] = f[DMIN_LANES + l] * clipped(f[M_OLD + l] + dm, ZERO, highest)
        sums(r, f)
        for l in range(LANES):
            better = f[ERROR + l] < f[ERROR_BEST + l]
            f[S_NOW + l] = clipped(f[S_OLD + l] + ds, low, high) if better else f[S_NOW + l]
            f[M_NOW + l] = clipped(f[M_OLD + l] + dm, ZERO, highest) if better else f[M_NOW + l]
            f[ERROR_BEST + l] = f[ERROR + l] if better else f[ERROR_BEST + l]
            f[SQ_BEST + l] = f[SQ + l] if better else f[SQ_BEST + l]
            f[SQQ_BEST + l] = f[SQQ + l] if better else f[SQQ_BEST + l]
            f[SXQ_BEST + l] = f[SXQ + l] if better else f[SXQ_BEST + l]


@exact
def settle(r, f):
    """Keep what was chosen where its error is the least so far; D_NOW and DMIN_NOW become those of least squares."""
    groups = r[GROUPS]
    blocks, signed = LANES // groups, r[OFFSET_HIGH] == 1
    for b in range(blocks):
        error, aa, ab, bb, xa, xb = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
        for l in range(b, LANES, blocks):
            s, m = f[S_NOW + l], f[M_NOW + l]
            error += f[ERROR_BEST + l]
            aa += s * s * f[SQQ_BEST + l]
            ab += s * m * f[SQ_BEST + l]
            bb += m * m * f[SW + l]
            xa += s * f[SXQ_BEST + l]
            xb += m * f[SX + l]
        dmin = f[DMIN_NOW + b]
        if error < f[LEAST_SUM + b]:
            f[LEAST_SUM + b], f[D_BEST + b], f[DMIN_BEST + b] = error, f[D_NOW + b], dmin
            for l in range(b, LANES, blocks):
                f[S_BEST + l], f[M_BEST + l] = f[S_NOW + l], f[M_NOW + l]
        det = aa * bb - ab * ab
        is_open = det <= aa * bb * SINGULAR
        d = divided(xa + dmin * ab, aa) if is_open else divided(xa * bb - xb * ab, det)
        dmin = half(dmin if is_open else divided(xa * ab - xb * aa, det), ONE)
        f[D_NOW + b] = half(d, ONE)
        f[DMIN_NOW + b] = dmin if signed or dmin > ZERO else ZERO


@exact
def fit(r, f):
    """D_BEST, S_BEST, DMIN_BEST and M_BEST from the runs' scales and offsets."""
    signed, tops, blocks = r[OFFSET_HIGH] == 1, floats(r[TOPS], 2 * r[N_TOPS]), LANES // r[GROUPS]
    low, high, highest = np.float32(r[SCALE_LOW]), np.float32(r[SCALE_HIGH]), np.float32(r[OFFSET_HIGH])
    for l in range(LANES):
        f[SX + l], f[LEAST_SUM + l], f[D_BEST + l], f[DMIN_BEST + l] = ZERO, INFINITY, ZERO, ZERO
        f[S_BEST + l], f[M_BEST + l] = ONE, ONE
        f[TOP + l], f[TOP_OFFSET + l] = f[RUN_SCALE + l], f[RUN_OFFSET + l]
    for i in range(0, size_of(r) * LANES, LANES):
        for l in range(LANES):
            f[SX + l] += f[N + i + l] * f[i + l]
    for l in range(blocks, LANES):
        b = l % blocks
        f[TOP + b] = max(f[TOP + b], f[RUN_SCALE + l])
        f[TOP_OFFSET + b] = max(f[TOP_OFFSET + b], f[RUN_OFFSET + l])
    for start in range(r[N_TOPS]):
        for b in range(blocks):
            d, dmin = half(f[TOP + b] * tops[2 * start], ONE), half(f[TOP_OFFSET + b] * tops[2 * start + 1], ONE)
            f[D_NOW + b], f[DMIN_NOW + b] = d, dmin
            for l in range(b, LANES, blocks):
                f[S_NOW + l] = whole(f[RUN_SCALE + l] * divided(ONE, d), low, high)
                f[M_NOW + l] = whole(f[RUN_OFFSET + l] * divided(ONE, dmin), ONE if signed else ZERO, highest)
        for _ in range(ROUNDS):
            choose(r, f)
            settle(r, f)


@exact
def store(r, f, first, count):
    groups, size = r[GROUPS], size_of(r)
    blocks, high = LANES // groups, np.float32(r[HIGH])
    for b in range(count):
        floats(r[D] + 4 * (first + b), 1)[0] = f[D_BEST + b] + ZERO
        floats(r[DMIN] + 4 * (first + b), 1)[0] = f[DMIN_BEST + b] + ZERO
        s, m = int16s(r[S] + 2 * (first + b) * groups, groups), uint8s(r[M] + (first + b) * groups, groups)
        codes = uint8s(r[CODES] + (first + b) * groups * size, groups * size)
        for g in range(groups):
            l = g * blocks + b
            s[g], m[g] = np.int16(f[S_BEST + l]), np.uint8(f[M_BEST + l])
            offset, inverse = f[DMIN_BEST + b] * f[M_BEST + l], divided(ONE, f[D_BEST + b] * f[S_BEST + l])
            for i in range(size):
                codes[g * size + i] = np.uint8(whole((f[i * LANES + l] + offset) * inverse, ZERO, high))


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
