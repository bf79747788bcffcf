"""Ops that look at a row or at a head of it. Units: heads, row after row (a row without heads is one head)."""
import math

from rwkv_edge_cpu.code.intrinsics import as_float64, floats, int64s
from rwkv_edge_cpu.code.jit import REDUCTION, kernel
from rwkv_edge_cpu.kernels.math32 import ONE, ZERO, F
from rwkv_edge_cpu.shape.layout import HEADS, N_FIELDS, OUT, PARAMETER, WIDTH, A, B, C, D


@kernel(REDUCTION)
def normalize(record, frame, scratch, begin, end):
    """LayerNorm and GroupNorm: A: x, B: weight, C: bias."""
    r = int64s(record, N_FIELDS)
    n = r[WIDTH] // r[HEADS]
    eps = F(as_float64(r[PARAMETER]))
    per_value = ONE / F(n)
    for unit in range(begin, end):
        first = 4 * n * (unit % r[HEADS])
        y, x = floats(r[OUT] + 4 * n * unit, n), floats(r[A] + 4 * n * unit, n)
        weight, bias = floats(r[B] + first, n), floats(r[C] + first, n)
        total = ZERO
        for i in range(n):
            total += x[i]
        mean = total * per_value
        squares = ZERO
        for i in range(n):
            squares += (x[i] - mean) * (x[i] - mean)
        factor = ONE / F(math.sqrt(squares * per_value + eps))
        for i in range(n):
            y[i] = (x[i] - mean) * factor * weight[i] + bias[i]


@kernel(REDUCTION)
def l2_normalize(record, frame, scratch, begin, end):
    """A: x."""
    r = int64s(record, N_FIELDS)
    n = r[WIDTH] // r[HEADS]
    eps = F(as_float64(r[PARAMETER]))
    for unit in range(begin, end):
        y, x = floats(r[OUT] + 4 * n * unit, n), floats(r[A] + 4 * n * unit, n)
        squares = ZERO
        for i in range(n):
            squares += x[i] * x[i]
        norm = F(math.sqrt(squares))
        norm = eps if norm < eps else norm  # NaN is not < eps
        for i in range(n):
            y[i] = x[i] / norm


@kernel(REDUCTION)
def head_bonus(record, frame, scratch, begin, end):
    """A: r, B: k, C: v, D: weight."""
    fields = int64s(record, N_FIELDS)
    n = fields[WIDTH] // fields[HEADS]
    for unit in range(begin, end):
        at = 4 * n * unit
        y, v = floats(fields[OUT] + at, n), floats(fields[C] + at, n)
        r, k = floats(fields[A] + at, n), floats(fields[B] + at, n)
        weight = floats(fields[D] + 4 * n * (unit % fields[HEADS]), n)
        total = ZERO
        for i in range(n):
            total += r[i] * k[i] * weight[i]
        for i in range(n):
            y[i] = total * v[i]
