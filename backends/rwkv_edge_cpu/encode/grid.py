"""What formats with a grid need beyond the search in symmetric.py: quant/encode/codebook.py, compiled."""
import numpy as np

from rwkv_edge_cpu.code.intrinsics import floats, int32s, uint8s, uint16s
from rwkv_edge_cpu.encode.lanes import INFINITY, ONE, ZERO, exact, exactly, size_of, whole
from rwkv_edge_cpu.encode.layout import (
    EVEN,
    GRID,
    GROUPS,
    INVERSE,
    LANES,
    LEVEL_STEP,
    LOW,
    MORE_SCRATCH,
    N_GRID,
    N_NEAR_ROWS,
    NEAR_ROWS,
    NEAR_VALUES,
    SIGNS,
    N,
)

KEYS = 4096  # four levels of 3 bits
BYTE, ONE_BYTE, TWO_BYTES, THREE_BYTES = np.int32(255), np.int32(8), np.int32(16), np.int32(24)

# Arrays of the lanes, behind those of symmetric.py:
ODD, CHEAPEST, LEAST_DISTANCE, SUM = (3 * N + i * LANES for i in range(19, 23))
FOUND = 3 * N + 23 * LANES  # rows of the grid, [size // 4, LANES]


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


@exactly
def find_keys(r, f, key, four):
    """Where the neighbours of four weights times INVERSE begin, which are left as codes."""
    low, step, near = np.float32(r[LOW]), ONE / np.float32(r[LEVEL_STEP]), np.float32(r[N_NEAR_ROWS] // KEYS)
    for j in range(LANES):
        f[SUM + j] = ZERO
        f[LEAST_DISTANCE + j] = INFINITY
    for k in range(3, -1, -1):
        at = (four * 4 + k) * LANES
        for j in range(LANES):
            v = f[at + j] * f[INVERSE + j]
            f[2 * N + at + j] = v
            f[SUM + j] = f[SUM + j] * np.float32(8) + whole((v - low) * step, ZERO, np.float32(7))
    for j in range(LANES):
        key[j] = np.int32(f[SUM + j] * near)


@exactly
def nearer(f, value, four, number):
    """In FOUND the number, where these values (four bytes each) are nearer than LEAST_DISTANCE."""
    at, w, out = 2 * N + four * 4 * LANES, N + four * 4 * LANES, FOUND + four * LANES
    for j in range(LANES):
        miss0 = f[at + j] - np.float32(value[j] & BYTE)
        miss1 = f[at + LANES + j] - np.float32(value[j] >> ONE_BYTE & BYTE)
        miss2 = f[at + 2 * LANES + j] - np.float32(value[j] >> TWO_BYTES & BYTE)
        miss3 = f[at + 3 * LANES + j] - np.float32(value[j] >> THREE_BYTES & BYTE)
        distance = miss0 * miss0 * f[w + j] + miss1 * miss1 * f[w + LANES + j]
        distance = distance + miss2 * miss2 * f[w + 2 * LANES + j] + miss3 * miss3 * f[w + 3 * LANES + j]
        better = distance < f[LEAST_DISTANCE + j]
        f[LEAST_DISTANCE + j] = distance if better else f[LEAST_DISTANCE + j]
        f[out + j] = number if better else f[out + j]


@exact
def nearest_rows(r, f):
    """Codes that are the nearest rows of the grid to the weights times INVERSE, by fours; in FOUND the rows' numbers."""
    grid, rows = floats(r[GRID], 4 * r[N_GRID]), uint16s(r[NEAR_ROWS], r[N_NEAR_ROWS])
    values, near = int32s(r[NEAR_VALUES], r[N_NEAR_ROWS]), r[N_NEAR_ROWS] // KEYS
    key, value = int32s(r[MORE_SCRATCH], LANES), int32s(r[MORE_SCRATCH] + 4 * LANES, LANES)
    for four in range(size_of(r) // 4):
        find_keys(r, f, key, four)
        for k in range(near):
            for j in range(LANES):  # apart, because it is no work for vectors
                value[j] = values[(key[j] & 0xFFFF) + k]
            nearer(f, value, four, np.float32(k))
        for j in range(LANES):
            row = np.int64(rows[(key[j] & 0xFFFF) + np.int64(f[FOUND + four * LANES + j])])
            f[FOUND + four * LANES + j] = np.float32(row)
            for k in range(4):
                f[2 * N + (four * 4 + k) * LANES + j] = grid[4 * row + k]
