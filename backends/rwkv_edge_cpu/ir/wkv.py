"""One token of a head's recurrence, written as LLVM IR: four rows of the state at a time, so that sums and loads are shared.

For heads whose size is a multiple of the vector length and of four; the state stays in the first cache from token to token.
"""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.vector import F32, I32, I64, at, constant, load, multiply_add, splat, store, vector

STATE_ROWS = 4  # of the state, at a time


def sums_of_four(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """The sums of the lanes of four vectors, as one vector: half the work of four single sums."""
    lanes = parts[0].type.count

    def interleaved(x: ir.Value, y: ir.Value, run: int) -> ir.Value:
        """Sums of neighbouring runs of lanes: those of x and of y by turns."""
        even = [i for i in range(lanes) if i // run % 2 == 0]
        halves = []
        for shift in (0, run):
            mask: list[int] = []
            for i in range(0, len(even), run):
                mask += [j + shift for j in even[i : i + run]] + [j + shift + lanes for j in even[i : i + run]]
            halves.append(b.shuffle_vector(x, y, ir.Constant(vector(I32, lanes), mask)))
        return b.fadd(*halves)

    total = interleaved(interleaved(parts[0], parts[1], 1), interleaved(parts[2], parts[3], 1), 2)
    while lanes > STATE_ROWS:
        lanes //= 2
        low, high = ([i + shift for i in range(lanes)] for shift in (0, lanes))
        undefined = ir.Constant(total.type, ir.Undefined)
        halves = [b.shuffle_vector(total, undefined, ir.Constant(vector(I32, lanes), mask)) for mask in (low, high)]
        total = b.fadd(*halves)
    return total


def spread(b: ir.IRBuilder, four: ir.Value, lanes: int) -> list[ir.Value]:
    """Each of four numbers in all lanes of a vector."""
    return [splat(b, b.extract_element(four, ir.Constant(I32, i)), lanes) for i in range(STATE_ROWS)]


def wkv7_token(cpu: Target) -> Any:
    """An intrinsic token(state, r, decay, k, v, kk, written, y, n), for all rows i of S [n, n] at `state`:

    removed[i] = S[i] . kk; S[i] = S[i] * decay - removed[i] * written + v[i] * k; y[i] = S[i] . r.
    """

    @intrinsic
    def token(typingctx, state, r, decay, k, v, kk, written, y, n):
        def codegen(context, b, signature, args):
            state, r, decay, k, v, kk, written, y, n = args
            lanes = cpu.lanes
            kind, four = vector(F32, lanes), vector(F32, STATE_ROWS)
            row_bytes = b.mul(n, ir.Constant(I64, 4))
            whole = b.udiv(n, ir.Constant(I64, lanes))
            with cgutils.for_range(b, b.udiv(n, ir.Constant(I64, STATE_ROWS)), intp=I64) as block:
                first = b.add(state, b.mul(b.mul(block.index, ir.Constant(I64, STATE_ROWS)), row_bytes))
                rows = [b.add(first, b.mul(row_bytes, ir.Constant(I64, i))) for i in range(STATE_ROWS)]
                removed, totals = ([cgutils.alloca_once(b, kind) for _ in range(STATE_ROWS)] for _ in range(2))
                for total in removed + totals:
                    b.store(constant(kind, 0.0), total)
                with cgutils.for_range(b, whole, intp=I64) as loop:
                    factor = load(b, at(b, kk, loop.index, 4 * lanes), kind)
                    for row, total in zip(rows, removed, strict=True):
                        value = load(b, at(b, row, loop.index, 4 * lanes), kind)
                        b.store(multiply_add(b, value, factor, b.load(total)), total)
                minus = spread(b, b.fneg(sums_of_four(b, [b.load(total) for total in removed])), lanes)
                values = spread(b, load(b, at(b, v, block.index, 4 * STATE_ROWS), four), lanes)
                with cgutils.for_range(b, whole, intp=I64) as loop:
                    vectors = (load(b, at(b, x, loop.index, 4 * lanes), kind) for x in (decay, written, k, r))
                    decays, writes, keys, reads = vectors
                    for i, row in enumerate(rows):
                        place = at(b, row, loop.index, 4 * lanes)
                        kept = multiply_add(b, load(b, place, kind), decays, b.fmul(values[i], keys))
                        new = multiply_add(b, minus[i], writes, kept)
                        store(b, new, place)
                        b.store(multiply_add(b, new, reads, b.load(totals[i])), totals[i])
                store(b, sums_of_four(b, [b.load(total) for total in totals]), at(b, y, block.index, 4 * STATE_ROWS))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return token


def wkv6_token(cpu: Target) -> Any:
    """An intrinsic token(state, r, k, v, decay, y, n), for all rows i of S [n, n] at `state`:

    y += r[i] * S[i]; S[i] = decay[i] * S[i] + k[i] * v.
    """

    @intrinsic
    def token(typingctx, state, r, k, v, decay, y, n):
        def codegen(context, b, signature, args):
            state, r, k, v, decay, y, n = args
            lanes = cpu.lanes
            kind, four = vector(F32, lanes), vector(F32, STATE_ROWS)
            row_bytes = b.mul(n, ir.Constant(I64, 4))
            with cgutils.for_range(b, b.udiv(n, ir.Constant(I64, STATE_ROWS)), intp=I64) as block:
                first = b.add(state, b.mul(b.mul(block.index, ir.Constant(I64, STATE_ROWS)), row_bytes))
                fours = (load(b, at(b, x, block.index, 4 * STATE_ROWS), four) for x in (r, k, decay))
                reads, keys, decays = (spread(b, each, lanes) for each in fours)
                with cgutils.for_range(b, b.udiv(n, ir.Constant(I64, lanes)), intp=I64) as loop:
                    out = at(b, y, loop.index, 4 * lanes)
                    value, total = load(b, at(b, v, loop.index, 4 * lanes), kind), load(b, out, kind)
                    for i in range(STATE_ROWS):
                        place = at(b, b.add(first, b.mul(row_bytes, ir.Constant(I64, i))), loop.index, 4 * lanes)
                        old = load(b, place, kind)
                        total = multiply_add(b, reads[i], old, total)
                        store(b, multiply_add(b, decays[i], old, b.fmul(keys[i], value)), place)
                    store(b, total, out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return token
