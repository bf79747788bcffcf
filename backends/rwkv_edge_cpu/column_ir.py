"""Products with transposed weights, written as LLVM IR: LoRA matrices as a .pth file holds them."""
# mypy: allow-untyped-defs, allow-untyped-calls
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.vector_ir import F32, I64, PLAIN, Target, at, constant, float_kind, load, multiply_add, offset, splat, store


def column_sums(name: str) -> Any:
    """An intrinsic sums(source, stride, x, n, y, count): y[c] = sum over i < n of x[i] * weight[i, c] for c < count.

    Weights of format `name`; row i of them is at source + i * stride, its weights one behind the other.
    """
    loader, size = PLAIN[name]

    @intrinsic
    def sums(typingctx, source, stride, x, n, y, count):
        def codegen(context, b, signature, args):
            source, stride, x, n, y, count = args
            cpu = Target.of(context)
            done = ir.Constant(I64, 0)
            for registers, lanes in ((8, cpu.lanes), (1, cpu.lanes), (1, 1)):
                columns = registers * lanes
                blocks = b.udiv(b.sub(count, done), ir.Constant(I64, columns))
                with cgutils.for_range(b, blocks, intp=I64) as block:
                    first = b.add(done, b.mul(block.index, ir.Constant(I64, columns)))
                    totals = [cgutils.alloca_once(b, float_kind(lanes)) for _ in range(registers)]
                    for total in totals:
                        b.store(constant(float_kind(lanes), 0.0), total)
                    with cgutils.for_range(b, n, intp=I64) as loop:
                        row = b.add(at(b, source, first, size), b.mul(loop.index, stride))
                        factor = load(b, at(b, x, loop.index, 4), F32)
                        factor = splat(b, factor, lanes) if lanes > 1 else factor
                        for i, total in enumerate(totals):
                            value = loader(b, cpu, offset(b, row, size * lanes * i), lanes)
                            b.store(multiply_add(b, value, factor, b.load(total)), total)
                    for i, total in enumerate(totals):
                        store(b, b.load(total), offset(b, at(b, y, first, 4), 4 * lanes * i))
                done = b.add(done, b.mul(blocks, ir.Constant(I64, columns)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return sums
