"""What the compiled encoders have in common. They repeat rwkv_edge/quant/encode bit for bit: no operation is contracted, and
sums are taken in the order of the weights.

LANES runs are worked on at once, g of block b in lane g * blocks + b, in one array of floats `f`, the scratch memory:
weights at f[0], what their errors count at f[N], codes at f[2 * N], each [size, LANES], then arrays of LANES floats. All inner
loops go along the lanes and, with places that are known when they are compiled, become vector instructions.
"""
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rwkv_edge.quant.encode.arithmetic import LARGEST_GROWTH, LARGEST_HALF, LEAST_HALF, SMALLEST
from rwkv_edge_cpu.code.intrinsics import floats
from rwkv_edge_cpu.encode.layout import GROUPS, LANES, LARGEST_SIZE, N_WEIGHTED, SIZE, N, W, X

# Every operation is rounded by itself, as NumPy does. `exact` is called, `exactly` becomes a part of its caller.
_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
exact: Callable[..., Any] = numba.njit(**_OPTIONS)
exactly: Callable[..., Any] = numba.njit(forceinline=True, **_OPTIONS)

ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)
ROUNDER = np.float32(1.5 * 2**23)  # a sum with it has no digits after the point
LEAST_NORMAL_HALF = np.float32(2**-14)
HALF = np.float32(0.5)  # from here to 1, numbers have as many digits after the point as the smallest halves


@intrinsic
def to_eleven_bits(typingctx, x):
    """Rounded to 11 binary digits, halves to even."""

    def codegen(context, builder, signature, args):
        i32 = ir.IntType(32)
        word = builder.bitcast(args[0], i32)
        odd = builder.and_(builder.lshr(word, i32(13)), i32(1))
        word = builder.and_(builder.add(word, builder.add(odd, i32(0xFFF))), i32(0xFFFFE000))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.float32), codegen


@exactly
def half(x, unit):
    x = clipped(x * unit, -LARGEST_HALF, LARGEST_HALF)
    size = abs(x)
    size = (size + HALF) - HALF if size < LEAST_NORMAL_HALF else to_eleven_bits(size)
    return (-size if x < ZERO else size) * (ONE / unit)


@exactly
def at_least_half(x, unit):
    rounded, least = half(x, unit), LEAST_HALF * (ONE / unit)
    if rounded == ZERO and x != ZERO:
        return -least if x < ZERO else least
    return rounded


@exactly
def divided(x, y):
    tiny = abs(y) < SMALLEST
    quotient = x / (ONE if tiny else y)
    return ZERO if tiny else quotient


@exactly
def clipped(x, low, high):
    x = low if x < low else x
    return high if x > high else x


@exactly
def whole(x, low, high):
    return (clipped(x, low, high) + ROUNDER) - ROUNDER


@exactly
def size_of(r):
    """Of a run; the compiler must know its limit."""
    return max(0, min(LARGEST_SIZE, r[SIZE]))


@exactly
def growth(xx, xy):
    return clipped(divided(xx, xy), ONE, LARGEST_GROWTH)


@exact
def squares(r, f, out):
    """f[out]: sums of squares of the weights, by lane."""
    for j in range(LANES):
        f[out + j] = ZERO
    for i in range(0, size_of(r) * LANES, LANES):
        for j in range(LANES):
            f[out + j] += f[N + i + j] * f[i + j] * f[i + j]


@exact
def load(r, f, first, count):
    """Blocks `first` to `first + count`, and zeros for those that are not there."""
    groups, size = r[GROUPS], size_of(r)
    blocks = LANES // groups
    for b in range(blocks):
        at = first + min(b, count - 1)
        x = floats(r[X] + 4 * at * size * groups, size * groups)
        w = floats(r[W] + 4 * (at % r[N_WEIGHTED]) * size * groups, size * groups)
        for g in range(groups):
            for i in range(size):
                f[i * LANES + g * blocks + b] = x[g * size + i] if b < count else ZERO
                f[N + i * LANES + g * blocks + b] = w[g * size + i]
