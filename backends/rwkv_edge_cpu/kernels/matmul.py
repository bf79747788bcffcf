"""y = weight @ x for several rows x and for plain floats. Units: rows of the weight.

Weights that lie row by row are multiplied as they are; others are decoded first, some rows at a time, into memory of this
thread. All rows x that are multiplied at a time meet a block of weights before the next ones do: both stay in the first cache.
"""
from functools import cache
from typing import Any

from rwkv_edge_cpu.code.intrinsics import call_decode, floats, int64s
from rwkv_edge_cpu.code.jit import REDUCTION, Kernel, inlined, kernel, specialized
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.plain import PLAIN_ROWS, plain_dots
from rwkv_edge_cpu.ir.plain_tile import plain_tile
from rwkv_edge_cpu.ir.vector import weight
from rwkv_edge_cpu.shape.layout import (
    DECODE,
    FEW,
    N_FIELDS,
    N_IN,
    OUT,
    PLAIN_TILE_ROWS,
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

BYTES_PER_ROW = 4 * TILE_STRIDE
SUMS_STRIDE = 4 * TILE_ROWS

# The templates' globals, see `jit.with_globals`: a weight's size; floats in a vector; columns of a tile.
BLOCK_BYTES = LANES = PLAIN_TOKENS = 0
dots = tile = weight_at = multiply = lambda *_: None


def multiply_rows(r, weights, stride, n_rows, row, k, n, sums):
    """y (+)= n weights, from the k-th on, of some rows, from `row` on, times all rows x."""
    for t in range(0, r[ROWS], PLAIN_TOKENS):
        n_tokens = min(PLAIN_TOKENS, r[ROWS] - t)
        x = r[A] + 4 * (t * r[N_IN] + k)
        for first in range(0, n_rows, TILE_ROWS):
            y = r[OUT] + 4 * (t * r[WIDTH] + row + first)
            source = weights + first * stride
            n_here = min(TILE_ROWS, n_rows - first)
            if n_here == TILE_ROWS:
                tile(source, stride, x, 4 * r[N_IN], n_tokens - 1, n // LANES, y, 4 * r[WIDTH], k > 0)
            else:  # rows one by one, each as often as a tile has rows
                for i in range(n_here):
                    tile(source + i * stride, 0, x, 4 * r[N_IN], n_tokens - 1, n // LANES, sums, SUMS_STRIDE, False)
                    for j in range(n_tokens):
                        out = floats(y + 4 * (r[WIDTH] * j + i), 1)
                        total = floats(sums + SUMS_STRIDE * j, 1)
                        out[0] = out[0] + total[0] if k > 0 else total[0]
            if n % LANES:
                for j in range(n_tokens):
                    for i in range(n_here):
                        out = floats(y + 4 * (r[WIDTH] * j + i), 1)
                        for at in range(n // LANES * LANES, n):
                            out[0] += weight_at(source + i * stride + BLOCK_BYTES * at) * floats(x + 4 * r[N_IN] * j, n)[at]


def matmul_rows(record, frame, scratch, begin, end):
    """A: x. Weights that lie row by row."""
    r = int64s(record, N_FIELDS)
    if r[ROWS] < FEW:
        for i in range(begin, end, PLAIN_ROWS):
            for t in range(r[ROWS]):
                x, y = r[A] + 4 * t * r[N_IN], r[OUT] + 4 * (t * r[WIDTH] + i)
                dots(r[WEIGHT] + i * r[STRIDE_OUT], r[STRIDE_OUT], min(PLAIN_ROWS, end - i) - 1, x, r[N_IN], y)
        return
    for row in range(begin, end, PLAIN_TILE_ROWS):
        for k in range(0, r[N_IN], TILE_WIDTH):
            source = r[WEIGHT] + row * r[STRIDE_OUT] + k * BLOCK_BYTES
            n = min(TILE_WIDTH, r[N_IN] - k)
            multiply(r, source, r[STRIDE_OUT], min(PLAIN_TILE_ROWS, end - row), row, k, n, scratch)


def matmul_decoded(record, frame, scratch, begin, end):
    """A: x. Weights of any strides."""
    r = int64s(record, N_FIELDS)
    decoded = scratch + SUMS_STRIDE * PLAIN_TOKENS
    for row in range(begin, end, PLAIN_TILE_ROWS):
        n_rows = min(PLAIN_TILE_ROWS, end - row)
        for k in range(0, r[N_IN], TILE_WIDTH):
            n = min(TILE_WIDTH, r[N_IN] - k)
            source = r[WEIGHT] + row * r[STRIDE_OUT] + k * r[STRIDE_IN]
            call_decode(r[DECODE], source, r[STRIDE_OUT], r[STRIDE_IN], n_rows, n, decoded, BYTES_PER_ROW)
            multiply(r, decoded, BYTES_PER_ROW, n_rows, row, k, n, scratch)


@cache
def _multiply(cpu: Target, format: str) -> Any:
    names = {"tile": plain_tile(cpu, format), "weight_at": weight(cpu, format)}
    return inlined(specialized(multiply_rows, format, **names, LANES=cpu.lanes, PLAIN_TOKENS=cpu.plain_tokens))


@cache
def row_kernel(cpu: Target, format: str) -> Kernel:
    """For weights that lie row by row."""
    return kernel(REDUCTION)(specialized(matmul_rows, format, dots=plain_dots(cpu, format), multiply=_multiply(cpu, format)))


@cache
def any_strides(cpu: Target) -> Kernel:
    names = {"multiply": _multiply(cpu, "f32"), "PLAIN_TOKENS": cpu.plain_tokens}
    return kernel(REDUCTION)(specialized(matmul_decoded, "f32", **names))
