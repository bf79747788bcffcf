"""y = weight @ x for one row x and plain floats, as they are stored. Units: rows of the weight.

`ROWS` for weights that lie row by row, `COLUMNS` for transposed views (LoRA matrices): a sum of x[i] * weight[:, i].
"""
# mypy: allow-untyped-defs, disable-error-code="call-arg"
from rwkv_edge_cpu.column_ir import column_sums
from rwkv_edge_cpu.intrinsics import floats, int64s
from rwkv_edge_cpu.jit import REDUCTION, Kernel, kernel
from rwkv_edge_cpu.layout import N_FIELDS, N_IN, OUT, STRIDE_IN, STRIDE_OUT, WEIGHT, A
from rwkv_edge_cpu.vector_ir import plain_dot

f32_dot, f16_dot, bf16_dot = plain_dot("f32"), plain_dot("f16"), plain_dot("bf16")
f32_columns, f16_columns, bf16_columns = column_sums("f32"), column_sums("f16"), column_sums("bf16")


@kernel(REDUCTION)
def rows_f32(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    y = floats(r[OUT], end)
    for i in range(begin, end):
        y[i] = f32_dot(r[WEIGHT] + i * r[STRIDE_OUT], r[A], r[N_IN])


@kernel(REDUCTION)
def rows_f16(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    y = floats(r[OUT], end)
    for i in range(begin, end):
        y[i] = f16_dot(r[WEIGHT] + i * r[STRIDE_OUT], r[A], r[N_IN])


@kernel(REDUCTION)
def rows_bf16(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    y = floats(r[OUT], end)
    for i in range(begin, end):
        y[i] = bf16_dot(r[WEIGHT] + i * r[STRIDE_OUT], r[A], r[N_IN])


@kernel(REDUCTION)
def columns_f32(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    f32_columns(r[WEIGHT] + 4 * begin, r[STRIDE_IN], r[A], r[N_IN], r[OUT] + 4 * begin, end - begin)


@kernel(REDUCTION)
def columns_f16(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    f16_columns(r[WEIGHT] + 2 * begin, r[STRIDE_IN], r[A], r[N_IN], r[OUT] + 4 * begin, end - begin)


@kernel(REDUCTION)
def columns_bf16(record, frame, scratch, begin, end):
    r = int64s(record, N_FIELDS)
    bf16_columns(r[WEIGHT] + 2 * begin, r[STRIDE_IN], r[A], r[N_IN], r[OUT] + 4 * begin, end - begin)


ROWS: dict[str, Kernel] = {"f32": rows_f32, "f16": rows_f16, "bf16": rows_bf16}
COLUMNS: dict[str, Kernel] = {"f32": columns_f32, "f16": columns_f16, "bf16": columns_bf16}
