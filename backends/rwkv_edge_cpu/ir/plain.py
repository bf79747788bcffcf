"""Rows of plain floats times float32 x, as LLVM IR."""
from itertools import chain
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.row import LINE, add_product, prefetch_ahead
from rwkv_edge_cpu.ir.vector import (
    F32,
    I32,
    I64,
    PLAIN,
    at,
    constant,
    float_kind,
    load,
    offset,
    store,
    sums_of,
)

PLAIN_ROWS = 4  # that are multiplied together where they are short
SHORT = 1024  # bytes of a row: beyond, several streams at a time are slower than one
UNROLL = 4  # sums of a row that do not wait for each other, or as many as take a line


def plain_dots(cpu: Target, name: str) -> Any:
    """An intrinsic dots(rows, stride, last, x, n, y): y[i] = row i of weights of a format times x [n], i <= last < PLAIN_ROWS.

    Rows are `stride` bytes apart, the weights of each one behind the other.
    """
    size = PLAIN[name][1]

    @intrinsic
    def dots(typingctx, rows, stride, last, x, n, y):
        def codegen(context, b, signature, args):
            rows, stride, last, x, n, y = args
            unroll = max(UNROLL, LINE // (size * cpu.lanes))
            with b.if_else(b.icmp_signed("<=", stride, ir.Constant(I64, SHORT))) as (short, long):
                with short:
                    numbers = (ir.Constant(I64, i) for i in range(PLAIN_ROWS))
                    # Behind the last one: the last one again.
                    chosen = [b.select(b.icmp_signed("<", i, last), i, last) for i in numbers]
                    sums = _products(b, cpu, name, [b.add(rows, b.mul(stride, i)) for i in chosen], x, n, 1)
                    for i, number in enumerate(chosen):
                        store(b, b.extract_element(sums, ir.Constant(I32, i)), at(b, y, number, 4))
                with long, cgutils.for_range(b, offset(b, last, 1), intp=I64) as loop:
                    sums = _products(b, cpu, name, [b.add(rows, b.mul(stride, loop.index))], x, n, unroll)
                    store(b, b.extract_element(sums, ir.Constant(I32, 0)), at(b, y, loop.index, 4))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return dots


def _products(b, cpu, name, rows, x, n, unroll):
    """<rows x float>: each row times x, with `unroll` sums for each. What is left behind whole vectors is added one by one."""
    loader, size = PLAIN[name]
    totals = [[cgutils.alloca_once(b, float_kind(cpu.lanes)) for _ in rows] for _ in range(unroll)]
    rest = [cgutils.alloca_once(b, F32) for _ in rows]
    for total in (*chain.from_iterable(totals), *rest):
        b.store(constant(total.type.pointee, 0.0), total)
    done = ir.Constant(I64, 0)
    for sums, lanes in (*[(totals, cpu.lanes)] * (unroll > 1), (totals[:1], cpu.lanes), ([rest], 1)):
        step = ir.Constant(I64, lanes * len(sums))
        end = b.udiv(n, step)
        with cgutils.for_range(b, end, start=b.udiv(done, step), intp=I64) as loop:
            first = b.mul(loop.index, step)
            if lanes > 1:  # in the order in which all these rows lie, not in that in which they are read
                prefetch_ahead(b, at(b, rows[0], first, size * len(rows)), size * lanes * len(sums) * len(rows))
            for j, of_rows in enumerate(sums):
                column = offset(b, first, j * lanes)
                factor = load(b, at(b, x, column, 4), float_kind(lanes))
                for row, total in zip(rows, of_rows, strict=True):
                    add_product(b, loader(b, cpu, at(b, row, column, size), lanes), factor, total)
        done = b.mul(end, step)
    result = _vectors_sum(b, [[b.load(total) for total in of_rows] for of_rows in totals])
    for i, total in enumerate(rest):
        place = ir.Constant(I32, i)
        result = b.insert_element(result, b.fadd(b.extract_element(result, place), b.load(total)), place)
    return result


def _vectors_sum(b, sums):
    while len(sums) > 1:
        sums = [[b.fadd(x, y) for x, y in zip(*pair, strict=True)] for pair in zip(sums[::2], sums[1::2], strict=True)]
    return sums_of(b, sums[0])
