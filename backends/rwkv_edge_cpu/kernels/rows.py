"""Ops that move rows."""
from rwkv_edge_cpu.code.intrinsics import call_decode, floats, int32s, int64s
from rwkv_edge_cpu.code.jit import kernel
from rwkv_edge_cpu.shape.layout import (
    DECODE,
    N_FIELDS,
    N_FRAME,
    OUT,
    OUTPUTS,
    ROWS,
    SEGMENTS,
    SLOT,
    STARTS,
    STATES,
    STRIDE_IN,
    STRIDE_OUT,
    TOKENS,
    WEIGHT,
    WIDTH,
    A,
)


@kernel()
def embed(record, frame, scratch, begin, end):
    """Units: rows."""
    r = int64s(record, N_FIELDS)
    tokens = int32s(int64s(frame, N_FRAME)[TOKENS], r[ROWS])
    for t in range(begin, end):
        row = r[WEIGHT] + tokens[t] * r[STRIDE_OUT]
        call_decode(r[DECODE], row, r[STRIDE_OUT], r[STRIDE_IN], 1, r[WIDTH], r[OUT] + 4 * t * r[WIDTH], 0)


@kernel()
def select_outputs(record, frame, scratch, begin, end):
    """Units: rows. A: x."""
    r = int64s(record, N_FIELDS)
    outputs = int32s(int64s(frame, N_FRAME)[OUTPUTS], r[ROWS])
    n = r[WIDTH]
    for m in range(begin, end):
        y, x = floats(r[OUT] + 4 * n * m, n), floats(r[A] + 4 * n * outputs[m], n)
        for i in range(n):
            y[i] = x[i]


@kernel()
def token_shift(record, frame, scratch, begin, end):
    """Units: channels, of all rows: the state's old value is read and its new one written by the same thread. A: x."""
    r = int64s(record, N_FIELDS)
    run = int64s(frame, N_FRAME)
    states, starts = int64s(run[STATES], run[SEGMENTS]), int64s(run[STARTS], run[SEGMENTS] + 1)
    n = end - begin
    stride = 4 * r[WIDTH]
    for s in range(run[SEGMENTS]):
        last = floats(states[s] + 4 * (r[SLOT] + begin), n)
        y = floats(r[OUT] + starts[s] * stride + 4 * begin, n)
        for i in range(n):
            y[i] = last[i]
        for t in range(starts[s] + 1, starts[s + 1]):
            y, x = floats(r[OUT] + t * stride + 4 * begin, n), floats(r[A] + (t - 1) * stride + 4 * begin, n)
            for i in range(n):
                y[i] = x[i]
        x = floats(r[A] + (starts[s + 1] - 1) * stride + 4 * begin, n)
        for i in range(n):
            last[i] = x[i]
