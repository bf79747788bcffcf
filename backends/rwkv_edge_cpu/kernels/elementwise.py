"""Ops on numbers one by one. Units: elements of the result, row after row; a vector operand starts again with every row.

All share the same fixed division of the elements between threads, so that one may follow another without a barrier.
"""
from rwkv_edge_cpu.code.intrinsics import as_float64, floats, int64s
from rwkv_edge_cpu.code.jit import Kernel, inlined, kernel
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.kernels.math32 import F, decay7, exp_neg_exp, relu_squared, sigmoid, silu, tanh
from rwkv_edge_cpu.shape.layout import N_FIELDS, OUT, PARAMETER, SHARED, WIDTH, A, B, C


@inlined
def until_row_end(r, begin, end):
    """How many elements from `begin` on can be done in one loop."""
    return min(r[WIDTH] - begin % r[WIDTH], end - begin) if r[SHARED] else end - begin


@inlined
def operand(r, which, begin):
    """The address of element `begin` of an operand that may be a vector."""
    return r[which] + 4 * (begin % r[WIDTH] if r[SHARED] else begin)


@kernel()
def add(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    while begin < end:
        n = until_row_end(r, begin, end)
        y, a, b = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n), floats(operand(r, B, begin), n)
        for i in range(n):
            y[i] = a[i] + b[i]
        begin += n


@kernel()
def multiply(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    while begin < end:
        n = until_row_end(r, begin, end)
        y, a, b = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n), floats(operand(r, B, begin), n)
        for i in range(n):
            y[i] = a[i] * b[i]
        begin += n


@kernel()
def lerp(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    while begin < end:
        n = until_row_end(r, begin, end)
        y, a, b = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n), floats(r[B] + 4 * begin, n)
        weight = floats(operand(r, C, begin), n)
        for i in range(n):
            y[i] = a[i] + (b[i] - a[i]) * weight[i]
        begin += n


@kernel()
def scale(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    n = end - begin
    factor = F(as_float64(r[PARAMETER]))
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = x[i] * factor


@kernel()
def sigmoids(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = sigmoid(x[i])


@kernel()
def tanhs(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = tanh(x[i])


@kernel()
def silus(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = silu(x[i])


@kernel()
def relu_squareds(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = relu_squared(x[i])


@kernel()
def exp_neg_exps(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = exp_neg_exp(x[i])


@kernel()
def decay7s(record, frame, scratch, begin, end):
    r, n = int64s(record, N_FIELDS), end - begin
    y, x = floats(r[OUT] + 4 * begin, n), floats(r[A] + 4 * begin, n)
    for i in range(n):
        y[i] = decay7(x[i])


ACTIVATIONS: dict[str, Kernel] = {
    "sigmoid": sigmoids,
    "tanh": tanhs,
    "silu": silus,
    "relu_squared": relu_squareds,
    "exp_neg_exp": exp_neg_exps,
    "decay7": decay7s,
}


def activation(cpu: Target, kind: str) -> Kernel:
    """Written the same for every target."""
    return ACTIVATIONS[kind]
