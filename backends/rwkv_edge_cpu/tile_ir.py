"""Tiles of blocks times several activation rows, as LLVM IR: lanes are rows of the weight, so nothing is summed across lanes.

A tile holds isa.rows rows of TILE_WIDTH weights: codes [k / 4, row, 4] as bytes, scales and offsets [group, row] as float32.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu import isa
from rwkv_edge_cpu.dot_ir import dot
from rwkv_edge_cpu.pieces_ir import RUN
from rwkv_edge_cpu.quantized_ir import BLOCKS, ORIGINS, SCALES, SUMS, part_of, product_bytes, zero_of
from rwkv_edge_cpu.vector_ir import F32, I8, I32, I64, Target, at, constant, load, multiply_add, offset, splat, store, vector


def block_unpack(name: str) -> Any:
    """An intrinsic unpack(source, n, codes, scales, offsets): n blocks of a row into a tile, from its place on."""
    size, format = FORMATS[name], BLOCKS[name]

    @intrinsic
    def unpack(typingctx, source, n, codes, scales, offsets):
        def codegen(context, b, signature, args):
            source, n, codes, scales, offsets = args
            step = 4 * isa.chosen().rows  # from one word of the row to the next
            groups = size.block_size // format.group
            with cgutils.for_range(b, n, intp=I64) as loop:
                parts = format.unpack(b, Target.of(context), at(b, source, loop.index, size.block_bytes))
                for run, value in enumerate(parts.codes):
                    words = b.bitcast(product_bytes(b, name, value), vector(I32, RUN // 4))
                    target = at(b, codes, loop.index, size.block_size // 4 * step)
                    for i in range(RUN // 4):
                        word = b.extract_element(words, ir.Constant(I32, i))
                        store(b, word, offset(b, target, step * (RUN // 4 * run + i)))
                for values, base in ((parts.scales, scales), (parts.offsets, offsets)):
                    for i in range(groups if values is not None else 0):
                        value = b.extract_element(values, ir.Constant(I32, i))
                        store(b, value, offset(b, at(b, base, loop.index, groups * step), i * step))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return unpack


def block_tile(name: str) -> Any:
    """An intrinsic tile(codes, scales, offsets, x, x_stride, n, first, runs, sums).

    sums[j, i] = row i of the tile times activation row j: isa.tokens by isa.rows sums over `runs` runs.
    x: address of the first activation row [n]; the tile begins at run `first` of it.
    """

    @intrinsic
    def tile(typingctx, codes, scales, offsets, x, x_stride, n, first, runs, sums):
        def codegen(context, b, signature, args):
            codes, scales, offsets, x, x_stride, n, first, runs, sums = args
            rows, tokens = isa.chosen().rows, isa.chosen().tokens
            totals = [cgutils.alloca_once_value(b, constant(vector(F32, rows), 0.0)) for _ in range(tokens)]
            with cgutils.for_range(b, runs, intp=I64) as loop:
                _add_run(b, name, (codes, scales, offsets), x, x_stride, n, first, loop.index, totals)
            for j, total in enumerate(totals):
                store(b, b.load(total), offset(b, sums, 4 * rows * j))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return tile


def _add_run(b, name, weights, x, x_stride, n, first, index, totals):
    """Add the products of run `index` of the tile."""
    codes, scales, offsets = weights
    format, rows = BLOCKS[name], isa.chosen().rows
    kind = vector(F32, rows)
    groups, words = RUN // format.group, format.group // 4
    run = b.add(first, index)
    x_bytes = at(b, x, run, RUN)
    # Few different registers, so that all addresses fit: a base for every third row, one stride.
    bases = [b.mul(x_stride, ir.Constant(I64, j)) for j in range(0, len(totals), 3)]
    deltas = [b.add(bases[j // 3], b.mul(x_stride, ir.Constant(I64, j % 3))) for j in range(len(totals))]
    x_scales, x_sums, x_origins = (
        at(b, part_of(b, x, n, part), run, step)
        for part, step in ((SCALES, 4), (SUMS, 4 * groups), (ORIGINS, 4 * groups))
    )
    for group in range(groups):
        products = []
        for delta in deltas:
            start = constant(vector(I32, rows), 0)
            if zero_of(name):
                start = splat(b, load(b, b.add(offset(b, x_origins, 4 * group), delta), I32), rows)
            products.append(start)
        for i in range(group * words, (group + 1) * words):
            tile_codes = load(b, offset(b, at(b, codes, index, RUN * rows), 4 * rows * i), vector(I8, 4 * rows))
            for j, delta in enumerate(deltas):
                four = splat(b, load(b, b.add(offset(b, x_bytes, 4 * i), delta), I32), rows)
                products[j] = dot(b, isa.chosen(), products[j], tile_codes, b.bitcast(four, tile_codes.type))
        at_group = 4 * rows * group
        scale = load(b, offset(b, at(b, scales, index, 4 * rows * groups), at_group), kind)
        for j, delta in enumerate(deltas):
            factor = b.fmul(scale, splat(b, load(b, b.add(x_scales, delta), F32), rows))
            b.store(multiply_add(b, b.sitofp(products[j], kind), factor, b.load(totals[j])), totals[j])
            if format.has_offsets:
                shift = load(b, offset(b, at(b, offsets, index, 4 * rows * groups), at_group), kind)
                of_group = splat(b, load(b, b.add(offset(b, x_sums, 4 * group), delta), F32), rows)
                b.store(multiply_add(b, shift, of_group, b.load(totals[j])), totals[j])


@intrinsic
def tile_shape(typingctx):
    """(rows, tokens) of a tile, constants."""
    kind = types.UniTuple(types.int64, 2)

    def codegen(context, b, signature, args):
        numbers = [ir.Constant(I64, isa.chosen().rows), ir.Constant(I64, isa.chosen().tokens)]
        return context.make_tuple(b, kind, numbers)

    return kind(), codegen
