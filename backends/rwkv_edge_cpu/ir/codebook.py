"""Blocks whose codes index a table, as LLVM IR: IQ4_NL, IQ4_XS, IQ3_XXS, IQ3_S. See rwkv_edge.quant.iq."""
from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from rwkv_edge.quant.grids import EVEN_SIGNS, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import join, pick
from rwkv_edge_cpu.ir.grid import Codebook, sign_sets
from rwkv_edge_cpu.ir.pieces import (
    WINDOW,
    BlockFormat,
    Blocks,
    Parts,
    as_mask,
    both,
    bytes_at,
    codes,
    half,
    halves,
    right,
    spread_bits,
    tested,
    word,
)
from rwkv_edge_cpu.ir.vector import F32, I8, I16, I32, I64, at, call, constant, load, splat, vector

LEVELS = [int(x) for x in IQ4_LEVELS]
IQ3_XXS, IQ3_S = Codebook(IQ3_XXS_GRID), Codebook(IQ3_S_GRID)


def table(b: ir.IRBuilder, name: str, values: NDArray[np.uint32]) -> ir.Value:
    """Address of a constant array of words, which becomes part of the compiled code."""
    name = f"rwkv_edge_{name}"
    if name not in b.module.globals:
        kind = ir.ArrayType(I32, len(values))
        variable = ir.GlobalVariable(b.module, kind, name)
        variable.linkage, variable.global_constant = "internal", True
        variable.initializer = ir.Constant(kind, [int(value) for value in values])
    return b.ptrtoint(b.module.globals[name], I64)


def look_up(b: ir.IRBuilder, cpu: Target, table: Sequence[int], codes: ir.Value) -> ir.Value:
    """Nibbles, a byte each, to what stands at their places in a table of 16 bytes."""
    n = codes.type.count
    if n in cpu.byte_shuffles:
        return call(b, cpu.byte_shuffles[n], codes.type, ir.Constant(codes.type, [*table] * (n // 16)), codes)
    if cpu.byte_shuffles:
        return join(b, *(look_up(b, cpu, table, pick(b, codes, part)) for part in (range(n // 2), range(n // 2, n))))
    result = constant(codes.type, table[0])
    for i in range(1, 16):
        reached = b.icmp_unsigned(">=", codes, constant(codes.type, i))
        result = b.select(reached, constant(codes.type, table[i]), result)
    return result


def shifts(b: ir.IRBuilder, x: ir.Value, step: int, mask: int) -> ir.Value:
    """Fields of a word as <8 x i32>: `mask` of it, then of it shifted by `step`, and so on."""
    spread = splat(b, x, 8)
    return both(b, b.lshr(spread, ir.Constant(spread.type, [step * i for i in range(8)])), mask)


def iq4_nl(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    nibbles = codes(b, blocks, [(2, 0), (2, 4)], 15)
    return Parts([look_up(b, cpu, LEVELS, x) for x in nibbles], halves(b, cpu, blocks, 0))


def iq4_xs(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    high = shifts(b, b.zext(word(b, blocks.base, 2, I16), I32), 2, 3)
    scales = b.or_(shifts(b, word(b, blocks.base, 4), 4, 15), right(b, high, -4))
    scales = b.sitofp(b.sub(scales, constant(scales.type, 32)), vector(F32, 8))
    nibbles = codes(b, blocks, [(8 + 16 * (piece // 2), piece % 2 * 4) for piece in range(16)], 15)
    return Parts([look_up(b, cpu, LEVELS, x) for x in nibbles], b.fmul(scales, half(b, cpu, blocks.base, 0, 8)))


def from_grid(
    b: ir.IRBuilder, blocks: Blocks, grid: ir.Value, index: Callable[[int], ir.Value], signs: ir.Value
) -> list[ir.Value]:
    """Vectors of codes: four magnitudes from each place `index(i)` of the grid; signs: <32 x i8>, a bit for each weight."""
    n = blocks.width // 4
    result = []
    for first in range(0, 64, n):
        words = ir.Constant(vector(I32, n), ir.Undefined)
        for i in range(n):
            words = b.insert_element(words, load(b, at(b, grid, index(first + i), 4), I32), ir.Constant(I32, i))
        minus = spread_bits(b, pick(b, signs, range(first // 2, (first + n) // 2)), -1)
        result.append(b.sub(b.xor(b.bitcast(words, minus.type), minus), minus))
    return result


def in_registers(cpu: Target, blocks: Blocks) -> bool:
    """Whether the codebook is: see ir/grid.py."""
    return cpu.wide_tables and blocks.width == WINDOW


def iq3_xxs(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    block = blocks.base
    words = word(b, block, 66, vector(I32, 8))
    scales = b.fadd(b.uitofp(right(b, words, 28), vector(F32, 8)), constant(vector(F32, 8), 0.5))
    scales = b.fmul(b.fmul(half(b, cpu, block, 0, 8), scales), constant(vector(F32, 8), 0.5))
    if in_registers(cpu, blocks):
        signs = sign_sets(b, words, EVEN_SIGNS)
        minus = [tested(b, pick(b, signs, range(i, i + 8))) for i in range(0, 32, 8)]
        return Parts(IQ3_XXS.codes(b, bytes_at(b, block, 2, 64), None, minus), scales)
    grid = table(b, "iq3_xxs", IQ3_XXS_GRID.view(np.uint32)[:, 0])

    def index(i: int) -> ir.Value:
        return b.zext(word(b, block, 2 + i, I8), I64)

    return Parts(from_grid(b, blocks, grid, index, even_signs(b, words)), scales)


def even_signs(b: ir.IRBuilder, words: ir.Value) -> ir.Value:
    """Four sets of 7 signs in each word; the eighth of each makes the number of minus signs even."""
    assert EVEN_SIGNS[1] == 0x81
    fields = [both(b, right(b, words, -i), 127 << 8 * i) for i in range(4)]
    seven = b.bitcast(b.or_(b.or_(fields[0], fields[1]), b.or_(fields[2], fields[3])), vector(I8, 32))
    return b.or_(seven, right(b, call(b, "llvm.ctpop.v32i8", seven.type, seven), -7))


def iq3_s(b: ir.IRBuilder, cpu: Target, blocks: Blocks) -> Parts:
    block = blocks.base
    odd = b.add(right(b, shifts(b, word(b, block, 106), 4, 15), -1), constant(vector(I32, 8), 1))
    scales = b.fmul(b.sitofp(odd, vector(F32, 8)), half(b, cpu, block, 0, 8))
    if in_registers(cpu, blocks):
        ninths, *minus = (as_mask(b, bytes_at(b, block, start, 8)) for start in range(66, 106, 8))
        return Parts(IQ3_S.codes(b, bytes_at(b, block, 2, 64), ninths, minus), scales)
    grid = table(b, "iq3_s", IQ3_S_GRID.view(np.uint32)[:, 0])
    ninths = [b.zext(word(b, block, 66 + run, I8), I64) for run in range(8)]

    def index(i: int) -> ir.Value:
        return b.or_(b.zext(word(b, block, 2 + i, I8), I64), both(b, right(b, ninths[i // 8], i % 8 - 8), 256))

    return Parts(from_grid(b, blocks, grid, index, bytes_at(b, block, 74, 32)), scales)


CODEBOOKS: dict[str, BlockFormat] = {
    "iq4_nl": BlockFormat("iq4_nl", iq4_nl),
    "iq4_xs": BlockFormat("iq4_xs", iq4_xs),
    "iq3_xxs": BlockFormat("iq3_xxs", iq3_xxs),
    "iq3_s": BlockFormat("iq3_s", iq3_s),
}
