"""Blocks whose codes index a table, as LLVM IR: IQ4_NL, IQ4_XS, IQ3_XXS, IQ3_S. See rwkv_edge.quant.iq."""
# mypy: allow-untyped-defs, allow-untyped-calls
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from rwkv_edge.quant.grids import EVEN_SIGNS, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS
from rwkv_edge_cpu.block_ir import Parts, block_formats, both, bytes_at, half, nibbles, right, spread_bits, word
from rwkv_edge_cpu.dot_ir import join
from rwkv_edge_cpu.vector_ir import F32, I8, I16, I32, I64, Target, at, call, constant, load, offset, splat, vector


def table(b: ir.IRBuilder, name: str, values: NDArray[np.uint32]) -> ir.Value:
    """Address of a constant array of words, which becomes part of the compiled code."""
    name = f"rwkv_edge_{name}"
    if name not in b.module.globals:
        kind = ir.ArrayType(I32, len(values))
        variable = ir.GlobalVariable(b.module, kind, name)
        variable.linkage, variable.global_constant = "internal", True
        variable.initializer = ir.Constant(kind, [int(value) for value in values])
    return b.ptrtoint(b.module.globals[name], I64)


def level(b: ir.IRBuilder, cpu: Target, codes: ir.Value) -> ir.Value:
    """<16 x i8> nibbles to the levels they stand for."""
    levels = ir.Constant(vector(I8, 16), [int(x) for x in IQ4_LEVELS])
    if cpu.byte_shuffle:
        return call(b, cpu.byte_shuffle, codes.type, levels, codes)
    result = constant(codes.type, int(IQ4_LEVELS[0]))
    for i in range(1, 16):
        reached = b.icmp_unsigned(">=", codes, constant(codes.type, i))
        result = b.select(reached, constant(codes.type, int(IQ4_LEVELS[i])), result)
    return result


def levels(b: ir.IRBuilder, cpu: Target, packed: ir.Value) -> ir.Value:
    return join(b, *(level(b, cpu, part) for part in nibbles(b, packed)))


def shifts(b: ir.IRBuilder, x: ir.Value, step: int, mask: int) -> ir.Value:
    """Fields of a word as <8 x i32>: `mask` of it, then of it shifted by `step`, and so on."""
    spread = splat(b, x, 8)
    return both(b, b.lshr(spread, ir.Constant(spread.type, [step * i for i in range(8)])), mask)


def iq4_nl(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    return Parts([levels(b, cpu, bytes_at(b, block, 2, 16))], half(b, cpu, block, 0, 8))


def iq4_xs(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    high = shifts(b, b.zext(word(b, block, 2, I16), I32), 2, 3)
    scales = b.or_(shifts(b, word(b, block, 4), 4, 15), right(b, high, -4))
    scales = b.sitofp(b.sub(scales, constant(scales.type, 32)), vector(F32, 8))
    codes = [levels(b, cpu, bytes_at(b, block, 8 + 16 * i, 16)) for i in range(8)]
    return Parts(codes, b.fmul(scales, half(b, cpu, block, 0, 8)))


def magnitudes(b: ir.IRBuilder, grid: ir.Value, codes: list[ir.Value]) -> ir.Value:
    """Eight codes to <32 x i8>: four magnitudes each."""
    result = ir.Constant(vector(I32, 8), ir.Undefined)
    for i, code in enumerate(codes):
        result = b.insert_element(result, load(b, at(b, grid, code, 4), I32), ir.Constant(I32, i))
    return b.bitcast(result, vector(I8, 32))


def signed(b: ir.IRBuilder, magnitude: ir.Value, signs: ir.Value) -> ir.Value:
    """signs: <4 x i8>, a bit for each weight."""
    minus = spread_bits(b, signs, -1)
    return b.sub(b.xor(magnitude, minus), minus)


def iq3_xxs(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    grid = table(b, "iq3_xxs", IQ3_XXS_GRID.view(np.uint32)[:, 0])
    words = load(b, offset(b, block, 66), vector(I32, 8))
    scales = b.fadd(b.uitofp(right(b, words, 28), vector(F32, 8)), constant(vector(F32, 8), 0.5))
    scales = b.fmul(b.fmul(half(b, cpu, block, 0, 8), scales), constant(vector(F32, 8), 0.5))
    codes = []
    for run in range(8):
        indexes = [b.zext(word(b, block, 2 + 8 * run + i, I8), I64) for i in range(8)]
        codes.append(signed(b, magnitudes(b, grid, indexes), even_signs(b, word(b, block, 66 + 4 * run))))
    return Parts(codes, scales)


def even_signs(b: ir.IRBuilder, packed: ir.Value) -> ir.Value:
    """Four sets of 7 signs; the eighth of each makes the number of minus signs even."""
    assert EVEN_SIGNS[1] == 0x81
    fields = ir.Constant(vector(I32, 4), [0, 7, 14, 21])
    seven = both(b, b.lshr(splat(b, packed, 4), fields), 127)
    parity = seven
    for shift in (4, 2, 1):
        parity = b.xor(parity, right(b, parity, shift))
    return b.trunc(b.or_(seven, right(b, parity, -7)), vector(I8, 4))


def iq3_s(b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
    grid = table(b, "iq3_s", IQ3_S_GRID.view(np.uint32)[:, 0])
    codes = []
    for run in range(8):
        ninth = b.zext(word(b, block, 66 + run, I8), I64)
        indexes = []
        for i in range(8):
            bit = both(b, right(b, ninth, i - 8), 256)
            indexes.append(b.or_(b.zext(word(b, block, 2 + 8 * run + i, I8), I64), bit))
        codes.append(signed(b, magnitudes(b, grid, indexes), bytes_at(b, block, 74 + 4 * run, 4)))
    odd = b.add(right(b, shifts(b, word(b, block, 106), 4, 15), -1), constant(vector(I32, 8), 1))
    return Parts(codes, b.fmul(b.sitofp(odd, vector(F32, 8)), half(b, cpu, block, 0, 8)))


CODEBOOKS = block_formats({"iq4_nl": iq4_nl, "iq4_xs": iq4_xs, "iq3_xxs": iq3_xxs, "iq3_s": iq3_s})
