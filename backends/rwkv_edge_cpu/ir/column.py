"""Products with transposed weights, written as LLVM IR: LoRA matrices as a .pth file holds them.

y[c] = sum over i < n of x[i] * weight[i, c] for c < count. Row i of the weights is at source + i * stride, its weights one
behind the other, and the rows should be read in the order in which they lie: the memory system sees streams, not columns.
"""
from dataclasses import dataclass
from itertools import chain
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.vector import (
    F32,
    I64,
    PLAIN,
    Load,
    at,
    constant,
    float_kind,
    load,
    multiply_add,
    offset,
    prefetch,
    splat,
    store,
    vector,
)

FAR = 1024  # bytes from row to row: beyond, the memory system does not find the next rows by itself
TOGETHER = 4  # such rows whose products are added up before the sums in memory are touched
CHAINS = 8  # sums in registers that do not wait for each other


@dataclass(frozen=True, slots=True)
class Columns:
    """The operands of one product, and the weights' format."""

    b: ir.IRBuilder
    cpu: Target
    loader: Load
    size: int
    source: ir.Value
    stride: ir.Value
    x: ir.Value
    n: ir.Value
    y: ir.Value

    def weights(self, i: ir.Value, column: ir.Value, lanes: int) -> ir.Value:
        b = self.b
        return self.loader(b, self.cpu, b.add(at(b, self.source, column, self.size), b.mul(i, self.stride)), lanes)

    def factor(self, i: ir.Value, lanes: int) -> ir.Value:
        value = load(self.b, at(self.b, self.x, i, 4), F32)
        return splat(self.b, value, lanes) if lanes > 1 else value

    def in_registers(self, done: ir.Value, count: ir.Value, registers: int, lanes: int) -> ir.Value:
        """Blocks of registers * lanes columns from column `done` on, while they fit; returns the first column left."""
        b, columns = self.b, registers * lanes
        blocks = b.udiv(b.sub(count, done), ir.Constant(I64, columns))
        unroll = CHAINS // registers
        whole = b.udiv(self.n, ir.Constant(I64, unroll))
        with cgutils.for_range(b, blocks, intp=I64) as block:
            first = b.add(done, b.mul(block.index, ir.Constant(I64, columns)))
            totals = [[cgutils.alloca_once(b, float_kind(lanes)) for _ in range(registers)] for _ in range(unroll)]
            for total in chain.from_iterable(totals):
                b.store(constant(float_kind(lanes), 0.0), total)

            def add_row(i: ir.Value, sums: list[ir.Value], first: ir.Value = first) -> None:
                factor = self.factor(i, lanes)
                for j, total in enumerate(sums):
                    value = self.weights(i, offset(b, first, j * lanes), lanes)
                    b.store(multiply_add(b, value, factor, b.load(total)), total)

            with cgutils.for_range(b, whole, intp=I64) as loop:
                for k, sums in enumerate(totals):
                    add_row(offset(b, b.mul(loop.index, ir.Constant(I64, unroll)), k), sums)
            with cgutils.for_range(b, self.n, start=b.mul(whole, ir.Constant(I64, unroll)), intp=I64) as loop:
                add_row(loop.index, totals[0])
            for j in range(registers):
                value = b.load(totals[0][j])
                for sums in totals[1:]:
                    value = b.fadd(value, b.load(sums[j]))
                store(b, value, at(b, self.y, offset(b, first, j * lanes), 4))
        return b.add(done, b.mul(blocks, ir.Constant(I64, columns)))

    def in_memory(self, columns: ir.Value) -> None:
        """The first `columns`, whole vectors of them, row by row over all columns; the sums y stay in the first cache."""
        b, lanes = self.b, self.cpu.lanes
        kind = vector(F32, lanes)
        vectors = b.udiv(columns, ir.Constant(I64, lanes))
        with cgutils.for_range(b, vectors, intp=I64) as loop:
            store(b, constant(kind, 0.0), at(b, self.y, loop.index, 4 * lanes))
        whole = b.udiv(self.n, ir.Constant(I64, TOGETHER))
        rest = b.mul(whole, ir.Constant(I64, TOGETHER))
        for rows, start, end in ((TOGETHER, ir.Constant(I64, 0), whole), (1, rest, self.n)):
            with cgutils.for_range(b, end, start=start, intp=I64) as block:
                indices = [offset(b, b.mul(block.index, ir.Constant(I64, rows)), i) for i in range(rows)]
                factors = [self.factor(i, lanes) for i in indices]
                with cgutils.for_range(b, vectors, intp=I64) as loop:
                    column = b.mul(loop.index, ir.Constant(I64, lanes))
                    total = constant(kind, 0.0)
                    for i, factor in zip(indices, factors, strict=True):
                        following = b.mul(offset(b, i, rows), self.stride)
                        prefetch(b, b.add(at(b, self.source, column, self.size), following))
                        total = multiply_add(b, self.weights(i, column, lanes), factor, total)
                    place = at(b, self.y, column, 4)
                    store(b, b.fadd(load(b, place, kind), total), place)


def column_sums(cpu: Target, name: str) -> Any:
    """An intrinsic sums(source, stride, x, n, y, count), see above, for weights of format `name`."""
    loader, size = PLAIN[name]

    @intrinsic
    def sums(typingctx, source, stride, x, n, y, count):
        def codegen(context, b, signature, args):
            source, stride, x, n, y, count = args
            product = Columns(b, cpu, loader, size, source, stride, x, n, y)
            none, lanes = ir.Constant(I64, 0), ir.Constant(I64, cpu.lanes)
            done = b.select(b.icmp_signed(">=", stride, ir.Constant(I64, FAR)), b.mul(b.udiv(count, lanes), lanes), none)
            with b.if_then(b.icmp_signed(">", done, none)):
                product.in_memory(done)
            for registers in (8, 4, 2, 1):
                done = product.in_registers(done, count, registers, cpu.lanes)
            product.in_registers(done, count, 1, 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return sums
