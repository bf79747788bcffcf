"""Products of blocks with activations rounded to bytes, as LLVM IR: what all block formats share.

An activation row [n] as bytes (of `activation_bytes`), its parts one behind the other; a run is 32 of them, a group as many
as the weight format has under one scale:
    bytes     int8 [n], from -127 to 127
    scales    float32 [n / 32], of each run
    starts    int32 [n / 4]: -zero times the sum of four bytes; what a row product, which takes codes as they are, starts from
    sums      float32 [n / 16]: scale times the sum of each group's bytes, for the weights' offsets
    origins   int32 [n / 16]: -zero times the sum of each group's bytes; what a tile starts from
    pairs     int32 [n / 8]: the first and the second half of each run's starts, added
    pieces    int8 [n]: the bytes as blocks side by side take them: of `side_by_side` runs the first 16, then the second 16

Many activation rows lie in panels instead, one for every TILE_WIDTH numbers: of all rows the same ones, row after row, and only
what tiles take: bytes, scales, sums, origins. So what a tile meets lies together.
"""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.block import ARITHMETIC
from rwkv_edge_cpu.ir.codebook import CODEBOOKS
from rwkv_edge_cpu.ir.dot import dot, join, pick
from rwkv_edge_cpu.ir.pieces import BlockFormat
from rwkv_edge_cpu.ir.vector import (
    F32,
    I8,
    I32,
    I64,
    at,
    call,
    constant,
    load,
    offset,
    splat,
    store,
    vector,
)
from rwkv_edge_cpu.shape.codes import (
    ORIGINS,
    PAIRS,
    PANEL_ORIGINS,
    PANEL_SCALES,
    PANEL_SUMS,
    PIECE,
    PIECES,
    RUN,
    SCALES,
    STARTS,
    SUMS,
    side_by_side,
)

BLOCKS: dict[str, BlockFormat] = ARITHMETIC | CODEBOOKS
LANES = 8  # sums of four products in a run
ROUND = 1.5 * 2.0**23  # added and taken away: rounds to whole numbers, halves to even


def part_of(b: ir.IRBuilder, x: ir.Value, n: ir.Value, eighths: int) -> ir.Value:
    return b.add(x, b.mul(b.udiv(n, ir.Constant(I64, 8)), ir.Constant(I64, eighths)))


def product_bytes(b: ir.IRBuilder, cpu: Target, name: str, codes: ir.Value) -> ir.Value:
    """Codes as the product takes them."""
    if BLOCKS[name].zero is None and cpu.isa.unsigned:
        return b.xor(codes, constant(codes.type, -128))
    return codes


def block_decode(cpu: Target, name: str) -> Any:
    """An intrinsic decode(source, n, target): n blocks as float32."""
    format, size = BLOCKS[name], FORMATS[name]

    @intrinsic
    def decode(typingctx, source, n, target):
        def codegen(context, b, signature, args):
            source, n, target = args
            wide = vector(F32, LANES)
            with cgutils.for_range(b, n, intp=I64) as loop:
                parts = format.unpack(b, cpu, at(b, source, loop.index, size.block_bytes))
                out = at(b, target, loop.index, 4 * size.block_size)
                for i in range(size.block_size // LANES):
                    run, first = i * LANES // RUN, i * LANES % RUN
                    group = [i * LANES // format.group] * LANES
                    codes = pick(b, parts.codes[run], range(first, first + LANES))
                    lanes = b.sub(b.sext(codes, vector(I32, LANES)), constant(vector(I32, LANES), format.zero or 0))
                    value = b.fmul(b.sitofp(lanes, wide), pick(b, parts.scales, group))
                    if parts.offsets is not None:
                        value = b.fadd(value, pick(b, parts.offsets, group))
                    store(b, value, offset(b, out, 4 * LANES * i))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    return decode


def quantize_run(cpu: Target) -> Any:
    """An intrinsic quantize(x, row, n, run, zero, group): the 32 floats at x as bytes: run `run` of the activation row [n]."""

    @intrinsic
    def quantize(typingctx, x, row, n, run, zero, group):
        def codegen(context, b, signature, args):
            x, row, n, run, zero, group = args
            codes, scale = _rounded(b, x)
            minus = b.neg(b.trunc(zero, I32))
            store(b, codes, at(b, row, run, RUN))
            _store_pieces(b, cpu, part_of(b, row, n, PIECES), run, codes)
            store(b, scale, at(b, part_of(b, row, n, SCALES), run, 4))
            fours = _fours(b, cpu, codes)
            starts = b.mul(fours, splat(b, minus, LANES))
            store(b, starts, at(b, part_of(b, row, n, STARTS), run, RUN))
            pairs = b.add(*(pick(b, starts, range(i, i + 4)) for i in (0, 4)))
            store(b, pairs, at(b, part_of(b, row, n, PAIRS), run, PIECE))
            _store_sums(b, part_of(b, row, n, SUMS), part_of(b, row, n, ORIGINS), run, minus, group, fours, scale)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return quantize


def quantize_panel_run(cpu: Target) -> Any:
    """As quantize_run; row: of a panel, n numbers wide."""

    @intrinsic
    def quantize(typingctx, x, row, n, run, zero, group):
        def codegen(context, b, signature, args):
            x, row, n, run, zero, group = args
            codes, scale = _rounded(b, x)
            store(b, codes, at(b, row, run, RUN))
            store(b, scale, at(b, part_of(b, row, n, PANEL_SCALES), run, 4))
            sums, origins = part_of(b, row, n, PANEL_SUMS), part_of(b, row, n, PANEL_ORIGINS)
            _store_sums(b, sums, origins, run, b.neg(b.trunc(zero, I32)), group, _fours(b, cpu, codes), scale)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return quantize


def _rounded(b, x):
    """32 floats as <32 x i8> and their scale."""
    wide, whole = vector(F32, LANES), vector(I32, LANES)
    values = [load(b, offset(b, x, 4 * LANES * i), wide) for i in range(4)]
    sizes = [b.and_(b.bitcast(value, whole), constant(whole, 0x7FFFFFFF)) for value in values]
    while len(sizes) > 1:
        sizes = [b.select(b.icmp_signed(">", p, q), p, q) for p, q in zip(sizes[::2], sizes[1::2], strict=True)]
    # As integers, infinities and NaN are greater than all else: the run's scale becomes NaN, and so every product.
    largest = call(b, "llvm.vector.reduce.smax.v8i32", I32, sizes[0])
    finite = b.icmp_signed("<", largest, ir.Constant(I32, 0x7F800000))
    size = b.bitcast(largest, F32)
    scale = b.select(finite, b.fdiv(size, ir.Constant(F32, 127.0)), ir.Constant(F32, float("nan")))
    usable = b.and_(finite, b.fcmp_ordered(">", size, ir.Constant(F32, 1e-35)))  # its inverse is finite, too
    inverse = b.select(usable, b.fdiv(ir.Constant(F32, 127.0), size), ir.Constant(F32, 0.0))
    rounded = []
    for value in values:
        value = b.select(splat(b, usable, LANES), value, constant(wide, 0.0))
        moved = b.fadd(b.fmul(value, splat(b, inverse, LANES)), constant(wide, ROUND))
        rounded.append(b.sub(b.bitcast(moved, whole), constant(whole, 0x4B400000)))
    return b.trunc(join(b, join(b, rounded[0], rounded[1]), join(b, rounded[2], rounded[3])), vector(I8, RUN)), scale


def _fours(b, cpu, codes):
    """The sums of four bytes each."""
    return dot(b, cpu.isa, constant(vector(I32, LANES), 0), constant(codes.type, 1), codes)


def _store_pieces(b, cpu, pieces, run, codes):
    together = ir.Constant(I64, side_by_side(cpu))
    base = b.add(at(b, pieces, b.sub(run, b.urem(run, together)), RUN), b.mul(b.urem(run, together), ir.Constant(I64, PIECE)))
    for i in range(2):
        store(b, pick(b, codes, range(PIECE * i, PIECE * (i + 1))), offset(b, base, PIECE * side_by_side(cpu) * i))


def _store_sums(b, sums, origins, run, minus, group, fours, scale):
    eights = b.add(pick(b, fours, range(0, LANES, 2)), pick(b, fours, range(1, LANES, 2)))
    halves = b.add(pick(b, eights, (0, 2)), pick(b, eights, (1, 3)))
    whole = b.add(pick(b, halves, (0,)), pick(b, halves, (1,)))
    per_run = b.udiv(ir.Constant(I64, RUN), group)
    first = b.mul(run, per_run)
    sums, origins = at(b, sums, first, 4), at(b, origins, first, 4)
    with b.if_else(b.icmp_signed("==", per_run, ir.Constant(I64, 1))) as (then, otherwise):
        for branch, values in ((then, whole), (otherwise, halves)):
            with branch:
                for i in range(values.type.count):
                    value = b.extract_element(values, ir.Constant(I32, i))
                    store(b, b.fmul(b.sitofp(value, F32), scale), offset(b, sums, 4 * i))
                    store(b, b.mul(value, minus), offset(b, origins, 4 * i))
