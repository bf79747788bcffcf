"""y = weight @ x for one row x and plain floats, as they are stored. Units: rows of the weight.

`row_kernel` for weights that lie row by row, `column_kernel` for transposed views (LoRA), a sum of x[i] * weight[:, i].
"""
from functools import cache

from rwkv_edge_cpu.code.intrinsics import int64s
from rwkv_edge_cpu.code.jit import REDUCTION, Kernel, kernel, specialized
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.column import column_sums
from rwkv_edge_cpu.ir.plain import PLAIN_ROWS, plain_dots
from rwkv_edge_cpu.shape.layout import N_FIELDS, N_IN, OUT, STRIDE_IN, STRIDE_OUT, WEIGHT, A

BLOCK_BYTES = 0  # a weight's size; the templates' globals, see `jit.with_globals`
dots = sums = lambda *_: None


def rows_plain(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    for i in range(begin, end, PLAIN_ROWS):
        dots(r[WEIGHT] + i * r[STRIDE_OUT], r[STRIDE_OUT], min(PLAIN_ROWS, end - i) - 1, r[A], r[N_IN], r[OUT] + 4 * i)


def columns_plain(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    sums(r[WEIGHT] + BLOCK_BYTES * begin, r[STRIDE_IN], r[A], r[N_IN], r[OUT] + 4 * begin, end - begin)


@cache
def row_kernel(cpu: Target, format: str) -> Kernel:
    return kernel(REDUCTION)(specialized(rows_plain, format, dots=plain_dots(cpu, format)))


@cache
def column_kernel(cpu: Target, format: str) -> Kernel:
    return kernel(REDUCTION)(specialized(columns_plain, format, sums=column_sums(cpu, format)))
