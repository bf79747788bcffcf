"""A few rows of plain floats times a few rows of x, as LLVM IR: lanes are neighbours in a row, summed at the end."""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.vector import F32, I64, PLAIN, at, constant, load, multiply_add, store, vector
from rwkv_edge_cpu.ir.wkv import sums_of_four
from rwkv_edge_cpu.shape.layout import TILE_ROWS


def plain_tile(cpu: Target, name: str) -> Any:
    """An intrinsic tile(weights, weight_stride, x, x_stride, last, n, y, y_stride, add).

    y[j, i] (+)= row i of `weights`, of format `name`, times row j of x, for i < TILE_ROWS, j <= last < cpu.plain_tokens, over n
    vectors. Addresses, and strides in bytes.
    """
    loader, size = PLAIN[name]

    @intrinsic
    def tile(typingctx, weights, weight_stride, x, x_stride, last, n, y, y_stride, add):
        def codegen(context, b, signature, args):
            weights, weight_stride, x, x_stride, last, n, y, y_stride, add = args
            kind, four = vector(F32, cpu.lanes), vector(F32, TILE_ROWS)
            rows = [b.add(weights, b.mul(weight_stride, ir.Constant(I64, i))) for i in range(TILE_ROWS)]
            # Columns that are not there: the last one again, which then is written several times with the same sums.
            indices = [ir.Constant(I64, j) for j in range(cpu.plain_tokens)]
            indices = [b.select(b.icmp_signed("<", index, last), index, last) for index in indices]
            columns = [b.add(x, b.mul(x_stride, index)) for index in indices]
            totals = [[cgutils.alloca_once_value(b, constant(kind, 0.0)) for _ in rows] for _ in columns]
            with cgutils.for_range(b, n, intp=I64) as loop:
                factors = [load(b, at(b, column, loop.index, 4 * cpu.lanes), kind) for column in columns]
                for i, row in enumerate(rows):
                    value = loader(b, cpu, at(b, row, loop.index, size * cpu.lanes), cpu.lanes)
                    for factor, of_column in zip(factors, totals, strict=True):
                        b.store(multiply_add(b, value, factor, b.load(of_column[i])), of_column[i])
            places = [b.add(y, b.mul(y_stride, index)) for index in indices]
            before = [b.select(add, load(b, place, four), constant(four, 0.0)) for place in places]
            for place, old, of_column in zip(places, before, totals, strict=True):
                store(b, b.fadd(old, sums_of_four(b, [b.load(total) for total in of_column])), place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, types.boolean), codegen

    return tile
