"""How Python and the compiled encoders meet: an int64 record, and a scheme's numbers as floats."""
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode.affine import tries
from rwkv_edge.quant.encode.codebook import neighbours
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme

# The record. All but the sizes are addresses.
(
    X,  # weights, float32 [n_blocks, block_size]
    W,  # what their squared errors count, float32 [n_weighted, block_size]: block i has row i % n_weighted
    N_BLOCKS,
    N_WEIGHTED,
    CODES,  # the results, see quant/encode/parts.py
    D,
    S,
    DMIN,
    M,
    SIGNS,
    GROUPS,
    SIZE,
    LOW,
    HIGH,
    SCALE_LOW,
    SCALE_HIGH,
    STEP,
    OFFSET_HIGH,
    UNIT,
    EVEN,
    STARTS,
    N_STARTS,
    TOPS,
    N_TOPS,
    LEVELS,
    N_LEVELS,
    GRID,
    N_GRID,
    NEIGHBOURS,
    N_NEIGHBOURS,
    TURNS,
    ROUNDS,
    LEVEL_STEP,
    NEAR_ROWS,
    N_NEAR_ROWS,
    NEAR_VALUES,
    N_NEAR_VALUES,
    MORE_SCRATCH,
    N_RECORD,
) = range(39)

LANES = 128  # runs that are worked on at once: their weights fit into a core's nearest cache
LARGEST_SIZE = 32  # of a run
N = LARGEST_SIZE * LANES
SCRATCH, INTEGERS = 3 * N + 40 * LANES, 2 * LANES  # of scratch memory: floats, and int32 behind them
INVERSE = 3 * N  # of the runs' scales: where codes come from


def blocks_at_once(scheme: Scheme) -> int:
    return LANES // scheme.groups


@cache
def tables(scheme: Scheme) -> dict[int, NDArray[Any]]:
    """By the field of their addresses; the next field is how many rows they have.

    float32 but for NEAR_ROWS, uint16, and NEAR_VALUES, four bytes each (see `codebook.neighbours`). STARTS of formats with
    offsets have two columns, see `affine.tries`; TOPS are factors, of scales and offsets.
    """
    reach = scheme.offset_high - scheme.scale_high if scheme.offset_high else 0
    found = {
        STARTS: tries(scheme) if scheme.offset_high else scheme.starts,
        TOPS: [(1 / top, 1 / (top + reach)) for top in scheme.tops],
        LEVELS: scheme.levels,
        GRID: () if scheme.grid is None else scheme.grid,
        NEIGHBOURS: scheme.neighbours,
    }
    floats: dict[int, NDArray[Any]] = {field: np.ascontiguousarray(table, np.float32) for field, table in found.items()}
    if scheme.grid is None:
        return floats
    rows = neighbours(scheme).reshape(-1)
    return floats | {NEAR_ROWS: rows, NEAR_VALUES: scheme.grid[rows]}


def record_of(scheme: Scheme, x: NDArray[np.float32], w: NDArray[np.float32], parts: Parts) -> NDArray[np.int64]:
    """Without the tables."""
    record = np.zeros(N_RECORD, np.int64)
    arrays = parts.codes, parts.d, parts.s, parts.dmin, parts.m, parts.signs
    record[[X, W, CODES, D, S, DMIN, M, SIGNS]] = [array.ctypes.data for array in (x, w, *arrays)]
    record[[N_BLOCKS, N_WEIGHTED]] = len(x), len(w)
    for field, name in FIELDS.items():
        record[field] = getattr(scheme, name)
    return record


FIELDS = {
    GROUPS: "groups", SIZE: "size", LOW: "low", HIGH: "high", SCALE_LOW: "scale_low", SCALE_HIGH: "scale_high", STEP: "step",
    OFFSET_HIGH: "offset_high", UNIT: "unit", EVEN: "even", TURNS: "turns", ROUNDS: "rounds", LEVEL_STEP: "level_step",
}  # fmt: skip
