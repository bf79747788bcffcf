"""Bands of rows of blocks times a few activation rows, as LLVM IR: lanes are rows of the weight, as in a tile, but the blocks
are taken apart in registers, on the way into the product.

What the bytes of a row are is found by shifts and masks, alike in each word of four bytes. So the words are transposed as they
lie, packed, and only then taken apart: those of all rows at once, scales too.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import dot
from rwkv_edge_cpu.ir.pieces import both, right
from rwkv_edge_cpu.ir.quantized import BLOCKS, part_of, product_bytes
from rwkv_edge_cpu.ir.tile import SQUARE, transposed
from rwkv_edge_cpu.ir.vector import (
    F32,
    I8,
    I16,
    I32,
    I64,
    at,
    constant,
    load,
    multiply_add,
    offset,
    prefetch,
    splat,
    store,
    vector,
)
from rwkv_edge_cpu.shape.codes import ORIGINS, RUN, SCALES, SUMS, zero_of

BAND_ROWS = 16  # of weights in a band: lanes of the widest vectors
BAND_TOKENS = 8  # activation rows: with their sums, a run of codes and scales fit into 32 registers
ZERO = ir.Constant(I64, 0)
LINE = 64  # bytes that memory hands over at once


class Group(NamedTuple):
    """Of a block of each row: the words of codes under one scale, as vectors of a word of each row.

    run, number: which run of the block, which group of the run: int64.  scales, offsets: <BAND_ROWS x float>.
    """

    codes: list[ir.Value]
    run: ir.Value
    number: ir.Value
    scales: ir.Value
    offsets: ir.Value | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """blocks: addresses of a block of each row."""

    blocks: list[ir.Value]

    def words(self, b: ir.IRBuilder, start: int, n: int = SQUARE) -> list[ir.Value]:
        """n words, whole squares, from byte `start` of the blocks on: <BAND_ROWS x i32> each."""
        words = []
        for i in range(start, start + 4 * n, 4 * SQUARE):
            words += transposed(b, [load(b, offset(b, block, i), vector(I32, SQUARE)) for block in self.blocks])
        return words

    def behind(self, b: ir.IRBuilder, n: ir.Value) -> "Band":
        """With all bytes n further on."""
        return Band([b.add(block, n) for block in self.blocks])

    def halves(self, b: ir.IRBuilder, start: int) -> ir.Value:
        """<BAND_ROWS x float> of the float16 at byte `start` of each block."""
        result: ir.Value = ir.Constant(vector(I16, BAND_ROWS), ir.Undefined)
        for i, block in enumerate(self.blocks):
            result = b.insert_element(result, load(b, offset(b, block, start), I16), ir.Constant(I32, i))
        return as_floats(b, result)


def as_floats(b: ir.IRBuilder, halves: ir.Value) -> ir.Value:
    """Words of two bytes, or of four, of which the lower ones count, that are float16."""
    if halves.type.element == I32:
        halves = b.trunc(halves, vector(I16, BAND_ROWS))
    return b.fpext(b.bitcast(halves, vector(ir.HalfType(), BAND_ROWS)), vector(F32, BAND_ROWS))


@dataclass(frozen=True, slots=True)
class Bytes:
    """Each row's bytes, by number. address: of words of them, as vectors, in memory."""

    address: ir.Value

    @staticmethod
    def of(b: ir.IRBuilder, words: list[ir.Value]) -> "Bytes":
        array = cgutils.alloca_once(b, words[0].type, size=len(words))
        address = b.ptrtoint(array, I64)
        for i, word in enumerate(words):
            store(b, word, offset(b, address, 4 * BAND_ROWS * i))
        return Bytes(address)

    def floats(self, b: ir.IRBuilder, i: ir.Value, signed: bool = False) -> ir.Value:
        """<BAND_ROWS x float> of byte i of each row."""
        kind = vector(I32, BAND_ROWS)
        four = ir.Constant(I64, 4)
        word = load(b, at(b, self.address, b.udiv(i, four), 4 * BAND_ROWS), kind)
        shift = b.trunc(b.mul(b.urem(i, four), ir.Constant(I64, 8)), I32)
        word = b.lshr(word, splat(b, shift, BAND_ROWS))
        if signed:
            return b.sitofp(b.ashr(b.shl(word, constant(kind, 24)), constant(kind, 24)), vector(F32, BAND_ROWS))
        return b.sitofp(both(b, word, 255), vector(F32, BAND_ROWS))


def bits_of(b: ir.IRBuilder, words: list[ir.Value], shift: int, mask: int) -> list[ir.Value]:
    """Of each byte: shifted as `right` does, and `mask` of it."""
    return [both(b, right(b, word, shift), 0x01010101 * mask) for word in words]


def q8_0(b: ir.IRBuilder, band: Band) -> Iterator[Group]:
    yield Group(band.words(b, 2, 8), ZERO, ZERO, band.halves(b, 0))


def q4_0(b: ir.IRBuilder, band: Band) -> Iterator[Group]:
    packed = band.words(b, 2)
    yield Group(bits_of(b, packed, 0, 15) + bits_of(b, packed, 4, 15), ZERO, ZERO, band.halves(b, 0))


def q4_k(b: ir.IRBuilder, band: Band) -> Iterator[Group]:
    both_factors, *packed = band.words(b, 0)
    factors = as_floats(b, both_factors), b.fneg(as_floats(b, right(b, both_factors, 16)))
    bytes_ = [Bytes.of(b, words) for words in six_bit_pairs(b, packed)]
    with cgutils.for_range(b, ir.Constant(I64, 4), intp=I64) as loop:  # a loop, so that registers suffice for its body
        words = band.behind(b, at(b, ZERO, loop.index, 32)).words(b, 16, 8)
        for i in range(2):
            run = offset(b, at(b, ZERO, loop.index, 2), i)
            scales, offsets = (b.fmul(byte.floats(b, run), factor) for byte, factor in zip(bytes_, factors, strict=True))
            yield Group(bits_of(b, words, 4 * i, 15), run, ZERO, scales, offsets)


def six_bit_pairs(b: ir.IRBuilder, packed: list[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Q4_K's scales and offsets, 8 bytes each, from three words."""
    first, second, last = packed
    results = []
    for low, high in ((first, last), (second, right(b, last, 4))):
        tops = right(b, both(b, right(b, low, 6), 0x03030303), -4)
        results.append([both(b, low, 0x3F3F3F3F), b.or_(both(b, high, 0x0F0F0F0F), tops)])
    return results[0], results[1]


def q6_k(b: ir.IRBuilder, band: Band) -> Iterator[Group]:
    bytes_, factor = Bytes.of(b, band.words(b, 192)), band.halves(b, 208)
    with cgutils.for_range(b, ir.Constant(I64, 4), intp=I64) as loop:
        half, piece = b.udiv(loop.index, ir.Constant(I64, 2)), b.urem(loop.index, ir.Constant(I64, 2))
        begin, high_begin = (b.add(at(b, ZERO, half, size), at(b, ZERO, piece, 16)) for size in (64, 32))
        low = [band.behind(b, begin).words(b, start) for start in (0, 32)]
        high = band.behind(b, high_begin).words(b, 128)
        for i in range(4):
            run = offset(b, at(b, ZERO, half, 4), i)
            parts = bits_of(b, low[i % 2], 4 * (i // 2), 15), bits_of(b, high, 2 * i - 4, 48)
            codes = [b.or_(x, y) for x, y in zip(*parts, strict=True)]
            scales = b.fmul(bytes_.floats(b, b.add(at(b, ZERO, run, 2), piece), signed=True), factor)
            yield Group(codes, run, piece, scales)


BANDS: dict[str, Callable[[ir.IRBuilder, Band], Iterator[Group]]] = {"q4_0": q4_0, "q8_0": q8_0, "q4_k": q4_k, "q6_k": q6_k}


def has_bands(cpu: Target, name: str) -> bool:
    """Where there are fewer registers, or shorter ones, other ways are faster."""
    return name in BANDS and cpu.isa.native == BAND_ROWS


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the parts of activation rows lie that meet a run of weights: one behind the other, so that one address is enough.

    codes [BAND_TOKENS, RUN], then float32 or int32 [BAND_TOKENS] each: scales, of each group origins where codes have a zero,
    and sums where weights have offsets.
    """

    groups: int
    has_origins: bool
    has_sums: bool

    @staticmethod
    def of(cpu: Target, name: str) -> "Packed":
        return Packed(RUN // BLOCKS[name].group, zero_of(cpu, name) != 0, BLOCKS[name].has_offsets)

    @property
    def scales(self) -> int:
        return BAND_TOKENS * RUN

    @property
    def origins(self) -> int:
        return self.scales + 4 * BAND_TOKENS

    @property
    def sums(self) -> int:
        return self.origins + 4 * BAND_TOKENS * self.groups * self.has_origins

    @property
    def size(self) -> int:
        return self.sums + 4 * BAND_TOKENS * self.groups * self.has_sums


def band_pack(cpu: Target, name: str) -> Any:
    """An intrinsic pack(x, x_stride, last, n, first, runs, target): runs of activation rows [n], from `first` on, as Packed.

    For each j < BAND_TOKENS activation row min(j, last). target: see Packed.size.
    """
    packed = Packed.of(cpu, name)
    groups = packed.groups
    parts = [(SCALES, packed.scales, 1)]
    parts += [(ORIGINS, packed.origins, groups)] * packed.has_origins + [(SUMS, packed.sums, groups)] * packed.has_sums

    @intrinsic
    def pack(typingctx, x, x_stride, last, n, first, runs, target):
        def codegen(context, b, signature, args):
            x, x_stride, last, n, first, runs, target = args
            with cgutils.for_range(b, ir.Constant(I64, BAND_TOKENS), intp=I64) as tokens:
                j = tokens.index
                row = b.add(x, b.mul(x_stride, b.select(b.icmp_signed("<", j, last), j, last)))
                to = at(b, target, j, 4)
                with cgutils.for_range(b, runs, intp=I64) as loop:
                    run, record = b.add(first, loop.index), at(b, to, loop.index, packed.size)
                    store(b, load(b, at(b, row, run, RUN), vector(I8, RUN)), at(b, record, j, RUN - 4))
                    for part, start, count in parts:
                        source = at(b, part_of(b, row, n, part), run, 4 * count)
                        for i in range(count):
                            number = load(b, offset(b, source, 4 * i), I32)
                            store(b, number, offset(b, record, start + 4 * BAND_TOKENS * i))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return pack


def block_band(cpu: Target, name: str) -> Any:
    """An intrinsic band(rows, stride, packed, last, blocks, y, y_stride, add): BAND_ROWS rows of so many blocks times x.

    y[j, i] = row i times activation row j, added to what is there where `add` is true; i < BAND_ROWS, j <= last < BAND_TOKENS.
    rows: address of the first block.  packed: of what `band_pack` made of the activations that meet these blocks.
    """
    size, packed = FORMATS[name], Packed.of(cpu, name)

    @intrinsic
    def band(typingctx, rows, stride, packed_at, last, blocks, y, y_stride, add):
        def codegen(context, b, signature, args):
            rows, stride, packed_at, last, blocks, y, y_stride, add = args
            kind = vector(F32, BAND_ROWS)
            numbers = [ir.Constant(I64, j) for j in range(BAND_TOKENS)]
            ys = [b.add(y, b.mul(y_stride, b.select(b.icmp_signed("<", number, last), number, last))) for number in numbers]
            totals = [cgutils.alloca_once_value(b, constant(kind, 0.0)) for _ in ys]
            with b.if_then(add):
                for y, total in zip(ys, totals, strict=True):
                    b.store(load(b, y, kind), total)
            with cgutils.for_range(b, blocks, intp=I64) as loop:
                ahead = in_next_band(b, rows, stride, loop.index, blocks, size.block_bytes)
                first = at(b, rows, loop.index, size.block_bytes)
                x = at(b, packed_at, loop.index, packed.size * size.block_size // RUN)
                for group in BANDS[name](b, Band([b.add(first, b.mul(stride, ir.Constant(I64, i))) for i in range(BAND_ROWS)])):
                    _prefetch_share(b, name, group, ahead)
                    _add_group(b, cpu, name, group, x, totals)
            for y, total in zip(ys, totals, strict=True):
                store(b, b.load(total), y)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, types.boolean), codegen

    return band


def in_next_band(b: ir.IRBuilder, rows: ir.Value, stride: ir.Value, index: ir.Value, blocks: ir.Value, size: int) -> ir.Value:
    """Address of its part with this index, of as many as rows have blocks: it is fetched one row after the other."""
    begin = b.mul(index, ir.Constant(I64, BAND_ROWS))
    row = b.add(b.udiv(begin, blocks), ir.Constant(I64, BAND_ROWS))
    return at(b, b.add(rows, b.mul(stride, row)), b.urem(begin, blocks), size)


def _prefetch_share(b, name, group, ahead):
    """Of a part of the next band: a bit with each group, because more at once would hold up what is loaded now."""
    size, format = FORMATS[name], BLOCKS[name]
    share = BAND_ROWS * size.block_bytes * format.group // size.block_size
    first = at(b, ahead, b.add(at(b, ZERO, group.run, RUN // format.group), group.number), share)
    for i in range(0, share, LINE):
        prefetch(b, offset(b, first, i))


def _add_group(b, cpu, name, group, x, totals):
    """Add the products of a group of weights of some blocks. x: address of the packed activations that they meet."""
    packed = Packed.of(cpu, name)
    record = at(b, x, group.run, packed.size)
    x_codes, x_numbers = at(b, record, group.number, BLOCKS[name].group), at(b, record, group.number, 4 * BAND_TOKENS)
    codes = [product_bytes(b, cpu, name, b.bitcast(word, vector(I8, 4 * BAND_ROWS))) for word in group.codes]

    def of_token(base, start, kind):
        return splat(b, load(b, offset(b, base, start), kind), BAND_ROWS)

    for j, total in enumerate(totals):
        zero = constant(vector(I32, BAND_ROWS), 0)
        product = of_token(x_numbers, packed.origins + 4 * j, I32) if packed.has_origins else zero
        for i, code in enumerate(codes):
            product = dot(b, cpu.isa, product, code, b.bitcast(of_token(x_codes, RUN * j + 4 * i, I32), code.type))
        factor = b.fmul(group.scales, of_token(record, packed.scales + 4 * j, F32))
        value = multiply_add(b, b.sitofp(product, factor.type), factor, b.load(total))
        if group.offsets is not None:
            value = multiply_add(b, group.offsets, of_token(x_numbers, packed.sums + 4 * j, F32), value)
        b.store(value, total)
