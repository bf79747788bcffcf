"""y = weight @ x for several rows x and for weights of any strides. Units: rows of the weight.

A few rows at a time are decoded once, into memory that stays in the core's first cache, and multiplied with all rows of x.
"""
# mypy: allow-untyped-defs, disable-error-code="call-arg"
from rwkv_edge_cpu.intrinsics import call_decode, floats, int64s
from rwkv_edge_cpu.jit import REDUCTION, inlined, kernel
from rwkv_edge_cpu.layout import (
    BLOCK,
    DECODE,
    N_FIELDS,
    N_IN,
    OUT,
    ROWS,
    STRIDE_IN,
    STRIDE_OUT,
    TILE_ROWS,
    TILE_STRIDE,
    TILE_WIDTH,
    WEIGHT,
    WIDTH,
    A,
)
from rwkv_edge_cpu.vector_ir import tile, tile_tokens, vector_lanes

BYTES_PER_ROW = 4 * TILE_STRIDE


@inlined
def multiply_tile(r, weights, n_rows, x, n_tokens, n, y, add, sums):
    """y[j, i] (+)= the sum over n weights of row i times row j of x, for a few rows of each; addresses are of the first."""
    whole = n // vector_lanes()
    tile(weights, BYTES_PER_ROW, x, 4 * r[N_IN], n_tokens - 1, whole, sums)
    for j in range(n_tokens):
        for i in range(n_rows):
            total = floats(sums, TILE_ROWS * tile_tokens())[TILE_ROWS * j + i]
            w, z = floats(weights + BYTES_PER_ROW * i, n), floats(x + 4 * r[N_IN] * j, n)
            for k in range(whole * vector_lanes(), n):
                total += w[k] * z[k]
            out = floats(y + 4 * r[WIDTH] * j, n_rows)
            out[i] = out[i] + total if add else total


@kernel(REDUCTION)
def matmul(record, frame, scratch, begin, end):
    """A: x."""
    r = int64s(record, N_FIELDS)
    sums = scratch + BYTES_PER_ROW * TILE_ROWS
    for row in range(begin, end, TILE_ROWS):
        n_rows = min(TILE_ROWS, end - row)
        for k in range(0, r[N_IN], TILE_WIDTH):
            n = min(TILE_WIDTH, r[N_IN] - k)
            source = r[WEIGHT] + row * r[STRIDE_OUT] + k // r[BLOCK] * r[STRIDE_IN]
            call_decode(r[DECODE], source, r[STRIDE_OUT], r[STRIDE_IN], n_rows, n, scratch, BYTES_PER_ROW)
            for t in range(0, r[ROWS], tile_tokens()):
                x, y = r[A] + 4 * (t * r[N_IN] + k), r[OUT] + 4 * (t * r[WIDTH] + row)
                multiply_tile(r, scratch, n_rows, x, min(tile_tokens(), r[ROWS] - t), n, y, k > 0, sums)
