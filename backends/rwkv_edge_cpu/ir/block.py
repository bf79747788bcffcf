"""Blocks of each format taken apart, as LLVM IR: weights as bytes, a vector at a time, and scales. See rwkv_edge.quant."""
from llvmlite import ir

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import join
from rwkv_edge_cpu.ir.pieces import (
    BlockFormat,
    Blocks,
    Parts,
    bits,
    both,
    bytes_at,
    codes,
    eight_runs,
    floats_of,
    half,
    halves,
    nibbles,
    right,
    word,
)
from rwkv_edge_cpu.ir.vector import I8, I64, constant, vector


def q4_0(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    return Parts(codes(b, blocks, [(2, 0), (2, 4)], 15), halves(b, cpu, blocks, 0))


def q4_1(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    return Parts(codes(b, blocks, [(4, 0), (4, 4)], 15), halves(b, cpu, blocks, 0), halves(b, cpu, blocks, 2))


def five_bits(b: ir.IRBuilder, blocks: Blocks, start: int) -> list[ir.Value]:
    low = codes(b, blocks, [(start + 4, 0), (start + 4, 4)], 15)
    return [b.or_(x, bits(b, blocks, start + 2 * i, 16)) for i, x in enumerate(low)]


def q5_0(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    return Parts(five_bits(b, blocks, 2), halves(b, cpu, blocks, 0))


def q5_1(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    return Parts(five_bits(b, blocks, 4), halves(b, cpu, blocks, 0), halves(b, cpu, blocks, 2))


def q8_0(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    return Parts(codes(b, blocks, [(2, 0), (18, 0)], 255), halves(b, cpu, blocks, 0))


def q2_k(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    packed = bytes_at(b, blocks.base, 0, 16)
    scales = b.fmul(floats_of(b, both(b, packed, 15)), half(b, cpu, blocks.base, 80, 16))
    offsets = b.fmul(floats_of(b, right(b, packed, 4)), half(b, cpu, blocks.base, 82, 16))
    places = eight_runs(lambda run: (16 + 32 * (run // 4), 2 * (run % 4)))
    return Parts(codes(b, blocks, places, 3), scales, b.fneg(offsets))


def q3_k(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    low = codes(b, blocks, eight_runs(lambda run: (32 + 32 * (run // 4), 2 * (run % 4))), 3)
    high = codes(b, blocks, eight_runs(lambda run: (0, run - 2)), 4)
    scales = b.fmul(six_bit_scales(b, blocks.base, 96), half(b, cpu, blocks.base, 108, 16))
    return Parts([b.or_(x, y) for x, y in zip(low, high, strict=True)], scales)


def six_bit_scales(b: ir.IRBuilder, block: ir.Value, start: int) -> ir.Value:
    """Q3_K's: <16 x float> from -32 to 31."""
    low = join(b, *nibbles(b, bytes_at(b, block, start, 8)))
    high = word(b, block, start + 8)
    twos = [both(b, right(b, high, shift), 0x03030303) for shift in range(0, 8, 2)]
    bytes_ = [b.bitcast(right(b, x, -4), vector(I8, 4)) for x in twos]
    six = b.or_(low, join(b, join(b, bytes_[0], bytes_[1]), join(b, bytes_[2], bytes_[3])))
    return floats_of(b, b.sub(six, constant(six.type, 32)), signed=True)


def q4_k(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    places = eight_runs(lambda run: (16 + 32 * (run // 2), 4 * (run % 2)))
    return Parts(codes(b, blocks, places, 15), *six_bit_pairs(b, cpu, blocks.base))


def q5_k(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    low = codes(b, blocks, eight_runs(lambda run: (48 + 32 * (run // 2), 4 * (run % 2))), 15)
    high = codes(b, blocks, eight_runs(lambda run: (16, run - 4)), 16)
    return Parts([b.or_(x, y) for x, y in zip(low, high, strict=True)], *six_bit_pairs(b, cpu, blocks.base))


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


def q6_k(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    low = codes(b, blocks, eight_runs(lambda run: (64 * (run // 4) + 32 * (run % 2), 4 * (run % 4 // 2))), 15)
    high = codes(b, blocks, eight_runs(lambda run: (128 + 32 * (run // 4), 2 * (run % 4) - 4)), 48)
    scales = b.fmul(floats_of(b, bytes_at(b, blocks.base, 192, 16), signed=True), half(b, cpu, blocks.base, 208, 16))
    return Parts([b.or_(x, y) for x, y in zip(low, high, strict=True)], scales)


ARITHMETIC: dict[str, BlockFormat] = {
    "q4_0": BlockFormat("q4_0", q4_0),
    "q4_1": BlockFormat("q4_1", q4_1),
    "q5_0": BlockFormat("q5_0", q5_0),
    "q5_1": BlockFormat("q5_1", q5_1),
    "q8_0": BlockFormat("q8_0", q8_0),
    "q2_k": BlockFormat("q2_k", q2_k),
    "q3_k": BlockFormat("q3_k", q3_k),
    "q4_k": BlockFormat("q4_k", q4_k),
    "q5_k": BlockFormat("q5_k", q5_k),
    "q6_k": BlockFormat("q6_k", q6_k),
}
