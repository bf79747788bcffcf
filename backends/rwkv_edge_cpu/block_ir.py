"""Blocks of each format taken apart, as LLVM IR: weights as bytes, 32 at a time, and scales. See rwkv_edge.quant."""
# mypy: allow-untyped-defs, allow-untyped-calls
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir

from rwkv_edge_cpu.dot_ir import join, pick
from rwkv_edge_cpu.vector_ir import F32, I8, I32, I64, Target, constant, load, load_f16, offset, splat, vector

RUN = 32  # weights that are taken out of a block at a time; activations have one scale per run


class Parts(NamedTuple):
    """codes: <32 x i8> for each run.  scales, offsets: one lane per group of the block; a block of one run: 8 equal lanes."""

    codes: list[ir.Value]
    scales: ir.Value
    offsets: ir.Value | None = None


Unpack = Callable[[ir.IRBuilder, Target, ir.Value], Parts]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """weight = scale * (code - zero) + offset.

    zero: None: codes are signed bytes; else they are below 128, so signed and unsigned.  group: weights under one scale.
    """

    unpack: Unpack
    zero: int | None
    group: int = 32
    has_offsets: bool = False


def bytes_at(b: ir.IRBuilder, block: ir.Value, start: int, n: int) -> ir.Value:
    return load(b, offset(b, block, start), vector(I8, n))


def word(b: ir.IRBuilder, block: ir.Value, start: int, kind: ir.Type = I32) -> ir.Value:
    return load(b, offset(b, block, start), kind)


def half(b: ir.IRBuilder, cpu: Target, block: ir.Value, start: int, lanes: int) -> ir.Value:
    """A float16 of the block in all lanes."""
    address = offset(b, block, start)
    if cpu.halves and not cpu.scalar_halves:
        # Spread, then converted: the scalar conversion of x86 waits for whatever was in its register before.
        return b.fpext(splat(b, load(b, address, ir.HalfType()), lanes), vector(F32, lanes))
    return splat(b, load_f16(b, cpu, address, 1), lanes)


def both(b: ir.IRBuilder, x: ir.Value, mask: int) -> ir.Value:
    return b.and_(x, ir.Constant(x.type, [mask] * x.type.count) if isinstance(x.type, ir.VectorType) else x.type(mask))


def right(b: ir.IRBuilder, x: ir.Value, n: int) -> ir.Value:
    """Each byte, or the whole word, shifted by n; to the left where n is negative."""
    if n == 0:
        return x
    by = constant(x.type, abs(n))
    return b.lshr(x, by) if n > 0 else b.shl(x, by)


def nibbles(b: ir.IRBuilder, packed: ir.Value) -> tuple[ir.Value, ir.Value]:
    return both(b, packed, 15), right(b, packed, 4)


def spread_bits(b: ir.IRBuilder, packed: ir.Value, value: int) -> ir.Value:
    """<4 x i8> to <32 x i8>: `value` where the bit is set, else 0."""
    copies = pick(b, packed, [i // 8 for i in range(32)])
    masked = b.and_(copies, ir.Constant(copies.type, [1 << i % 8 for i in range(32)]))
    zero = constant(copies.type, 0)
    return b.select(b.icmp_unsigned("!=", masked, zero), constant(copies.type, value), zero)


def floats_of(b: ir.IRBuilder, x: ir.Value, signed: bool = False) -> ir.Value:
    n = x.type.count
    wide = b.sext(x, vector(I32, n)) if signed else b.zext(x, vector(I32, n))
    return b.sitofp(wide, vector(F32, n))


def q4_0(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    return Parts([join(b, *nibbles(b, bytes_at(b, block, 2, 16)))], half(b, cpu, block, 0, 8))


def q4_1(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    codes = join(b, *nibbles(b, bytes_at(b, block, 4, 16)))
    return Parts([codes], half(b, cpu, block, 0, 8), half(b, cpu, block, 2, 8))


def five_bits(b: ir.IRBuilder, block: ir.Value, start: int) -> ir.Value:
    low = join(b, *nibbles(b, bytes_at(b, block, start + 4, 16)))
    return b.or_(low, spread_bits(b, bytes_at(b, block, start, 4), 16))


def q5_0(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    return Parts([five_bits(b, block, 2)], half(b, cpu, block, 0, 8))


def q5_1(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    return Parts([five_bits(b, block, 4)], half(b, cpu, block, 0, 8), half(b, cpu, block, 2, 8))


def q8_0(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    return Parts([bytes_at(b, block, 2, 32)], half(b, cpu, block, 0, 8))


def q2_k(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    packed = bytes_at(b, block, 0, 16)
    scales = b.fmul(floats_of(b, both(b, packed, 15)), half(b, cpu, block, 80, 16))
    offsets = b.fmul(floats_of(b, right(b, packed, 4)), half(b, cpu, block, 82, 16))
    rows = [bytes_at(b, block, 16 + 32 * i, 32) for i in range(2)]
    codes = [both(b, right(b, row, shift), 3) for row in rows for shift in range(0, 8, 2)]
    return Parts(codes, scales, b.fneg(offsets))


def q3_k(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    high = bytes_at(b, block, 0, 32)
    rows = [bytes_at(b, block, 32 + 32 * i, 32) for i in range(2)]
    low = [both(b, right(b, row, shift), 3) for row in rows for shift in range(0, 8, 2)]
    codes = [b.or_(x, both(b, right(b, high, run - 2), 4)) for run, x in enumerate(low)]
    return Parts(codes, b.fmul(six_bit_scales(b, block, 96), half(b, cpu, block, 108, 16)))


def six_bit_scales(b: ir.IRBuilder, block: ir.Value, start: int) -> ir.Value:
    """Q3_K's: <16 x float> from -32 to 31."""
    low = join(b, *nibbles(b, bytes_at(b, block, start, 8)))
    high = word(b, block, start + 8)
    twos = [both(b, right(b, high, shift), 0x03030303) for shift in range(0, 8, 2)]
    bytes_ = [b.bitcast(right(b, x, -4), vector(I8, 4)) for x in twos]
    codes = b.or_(low, join(b, join(b, bytes_[0], bytes_[1]), join(b, bytes_[2], bytes_[3])))
    return floats_of(b, b.sub(codes, constant(codes.type, 32)), signed=True)


def q4_k(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    codes = [part for i in range(4) for part in nibbles(b, bytes_at(b, block, 16 + 32 * i, 32))]
    return Parts(codes, *six_bit_pairs(b, cpu, block))


def q5_k(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    high = bytes_at(b, block, 16, 32)
    low = [part for i in range(4) for part in nibbles(b, bytes_at(b, block, 48 + 32 * i, 32))]
    codes = [b.or_(x, both(b, right(b, high, run - 4), 16)) for run, x in enumerate(low)]
    return Parts(codes, *six_bit_pairs(b, cpu, block))


def six_bit_pairs(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Q4_K's and Q5_K's scales and offsets, <8 x float> each; four of them at a time in the bytes of a word."""
    first, second, last = (word(b, block, start) for start in (4, 8, 12))
    results = []
    for packed, low, start in ((first, last, 0), (second, right(b, last, 4), 2)):
        tops = right(b, both(b, right(b, packed, 6), 0x03030303), -4)
        upper = b.or_(both(b, low, 0x0F0F0F0F), tops)
        eight = b.or_(b.zext(both(b, packed, 0x3F3F3F3F), I64), b.shl(b.zext(upper, I64), ir.Constant(I64, 32)))
        results.append(b.fmul(floats_of(b, b.bitcast(eight, vector(I8, 8))), half(b, cpu, block, start, 8)))
    return results[0], b.fneg(results[1])


def q6_k(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    codes = []
    for i in range(2):
        low = [nibbles(b, bytes_at(b, block, 64 * i + 32 * j, 32)) for j in range(2)]
        high = bytes_at(b, block, 128 + 32 * i, 32)
        for run, part in enumerate((low[0][0], low[1][0], low[0][1], low[1][1])):
            codes.append(b.or_(part, both(b, right(b, high, 2 * run - 4), 48)))
    scales = floats_of(b, bytes_at(b, block, 192, 16), signed=True)
    return Parts(codes, b.fmul(scales, half(b, cpu, block, 208, 16)))


ARITHMETIC: dict[str, BlockFormat] = {
    "q4_0": BlockFormat(q4_0, 8),
    "q4_1": BlockFormat(q4_1, 0, has_offsets=True),
    "q5_0": BlockFormat(q5_0, 16),
    "q5_1": BlockFormat(q5_1, 0, has_offsets=True),
    "q8_0": BlockFormat(q8_0, None),
    "q2_k": BlockFormat(q2_k, 0, 16, has_offsets=True),
    "q3_k": BlockFormat(q3_k, 4, 16),
    "q4_k": BlockFormat(q4_k, 0, has_offsets=True),
    "q5_k": BlockFormat(q5_k, 0, has_offsets=True),
    "q6_k": BlockFormat(q6_k, 32, 16),
}
