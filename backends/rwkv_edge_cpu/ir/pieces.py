"""What formats of blocks are described with, as LLVM IR: pieces of 16 weights, cut from a block or from several side by side.

A code vector holds as many pieces as the machine's byte product takes. A block of 256 weights fills several vectors one after
the other; of blocks of 32 a vector takes the same piece of each, so that whatever belongs to a block is alike in four lanes.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import join, pick
from rwkv_edge_cpu.ir.vector import F32, I1, I8, I16, I32, constant, load, load_f16, offset, splat, vector
from rwkv_edge_cpu.shape.codes import CODES, PIECE, RUN

WINDOW = 64  # bytes: of a register that can be permuted as a whole

Bits = tuple[int, int]  # of a piece: its first byte in the block, how far its bytes are to be shifted (see `right`)


class Parts(NamedTuple):
    """codes: vectors of bytes, see `codes`.  scales, offsets: a lane per group of the block; of small blocks: 4 lanes each."""

    codes: list[ir.Value]
    scales: ir.Value
    offsets: ir.Value | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is taken apart at once: a block at address `base`, or `count` blocks of `size` bytes from there on, of one run each.

    width: bytes in a vector of codes.
    """

    base: ir.Value
    size: int
    width: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """take: the part of taking a block apart that is the format's own. What its codes mean: see shape/codes.py."""

    name: str
    take: Callable[[ir.IRBuilder, Target, Blocks], Parts]

    @property
    def zero(self) -> int | None:
        return CODES[self.name].zero

    @property
    def group(self) -> int:
        return CODES[self.name].group

    @property
    def has_offsets(self) -> bool:
        return CODES[self.name].has_offsets

    @property
    def runs(self) -> int:
        """In a block."""
        return FORMATS[self.name].block_size // RUN

    def blocks(self, base: ir.Value, width: int) -> Blocks:
        """As much as is best taken apart at once with vectors of this width: from 16 to 64."""
        return Blocks(base, FORMATS[self.name].block_bytes, width, width // PIECE if self.runs == 1 else 1)

    def unpack(self, b: ir.IRBuilder, cpu: Target, block: ir.Value) -> Parts:
        """One block, codes as <32 x i8> for each run."""
        parts = self.take(b, cpu, self.blocks(block, RUN if self.runs > 1 else PIECE))
        return parts if self.runs > 1 else parts._replace(codes=[join(b, *parts.codes)])


def eight_runs(place: Callable[[int], Bits]) -> list[Bits]:
    """The pieces of 8 runs whose bytes lie together, from the place of each run's first."""
    return [(place(run)[0] + PIECE * i, place(run)[1]) for run in range(8) for i in range(2)]


def codes(b: ir.IRBuilder, blocks: Blocks, places: list[Bits], mask: int) -> list[ir.Value]:
    """<width x i8>: the pieces at these places in turn, or each piece of all blocks; shifted, and `mask` of each byte."""
    if blocks.count > 1:
        vectors = [[(start + blocks.size * i, shift) for i in range(blocks.count)] for start, shift in places]
    else:
        n = blocks.width // PIECE
        vectors = [places[i : i + n] for i in range(0, len(places), n)]
    result = []
    for pieces in vectors:
        packed = gathered(b, blocks, [start for start, _ in pieces], PIECE)
        result.append(packed if mask == 255 else both(b, shifted(b, packed, [shift for _, shift in pieces]), mask))
    return result


def gathered(b: ir.IRBuilder, blocks: Blocks, starts: list[int], n: int) -> ir.Value:
    """n bytes, an even number, from each of these places, as one vector."""
    first, last = min(starts), max(starts)
    if last + n - first <= n * len(set(starts)):  # no gaps
        packed = bytes_at(b, blocks.base, first, last + n - first)
        order = [start - first + i for start in starts for i in range(n)]
        return packed if order == list(range(len(order))) else pick(b, packed, order)
    if blocks.width == WINDOW:
        return _windows(b, blocks, starts, n)
    parts = [bytes_at(b, blocks.base, start, n) for start in starts]
    while len(parts) > 1:
        parts = [join(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _windows(b: ir.IRBuilder, blocks: Blocks, starts: list[int], n: int) -> ir.Value:
    """By one permutation of two whole registers, which hold the first and the last bytes of the blocks or of the places."""
    end = blocks.size * blocks.count
    for low, high in ((0, end - WINDOW), (starts[0], max(starts) + n - WINDOW)):
        inside = [low <= start and start + n <= low + WINDOW for start in starts]
        if all(here or start >= high for start, here in zip(starts, inside, strict=True)):
            break
    windows = [b.bitcast(bytes_at(b, blocks.base, start, WINDOW), vector(I16, WINDOW // 2)) for start in (low, high)]
    order = []
    for start, here in zip(starts, inside, strict=True):
        place = start - low if here else start - high + WINDOW
        order += [place // 2 + i for i in range(n // 2)]
    words = b.shuffle_vector(*windows, ir.Constant(vector(I32, len(order)), order))
    return b.bitcast(words, vector(I8, n * len(starts)))


def shifted(b: ir.IRBuilder, packed: ir.Value, shifts: list[int]) -> ir.Value:
    """Pieces, each shifted as `right` does; where they differ, neighbouring bytes mix, beyond what a code's mask leaves."""
    if len(set(shifts)) == 1:
        return right(b, packed, shifts[0])
    wide = b.bitcast(packed, vector(I16, packed.type.count // 2))
    by = ir.Constant(wide.type, [abs(shift) for shift in shifts for _ in range(PIECE // 2)])
    return b.bitcast(b.lshr(wide, by) if max(shifts) > 0 else b.shl(wide, by), packed.type)


def bits(b: ir.IRBuilder, blocks: Blocks, start: int, value: int) -> ir.Value:
    """<width x i8>: `value` where a bit of the 16 from byte `start` on, of each block, is set, else 0."""
    packed = gathered(b, blocks, [start + blocks.size * i for i in range(blocks.count)], 2)
    return spread_bits(b, packed, value)


def spread_bits(b: ir.IRBuilder, packed: ir.Value, value: int) -> ir.Value:
    """<n x i8> to <8 n x i8>: `value` where the bit is set, else 0."""
    chosen = as_mask(b, packed) if 8 * packed.type.count == WINDOW else tested(b, packed)
    kind = vector(I8, 8 * packed.type.count)
    return b.select(chosen, constant(kind, value), constant(kind, 0))


def as_mask(b: ir.IRBuilder, packed: ir.Value) -> ir.Value:
    """<n x i8> to <8 n x i1>: best where it becomes a mask register, from memory."""
    return b.bitcast(packed, vector(I1, 8 * packed.type.count))


def tested(b: ir.IRBuilder, packed: ir.Value) -> ir.Value:
    """<n x i8> to <8 n x i1>, each bit in a byte of its own: best where there are no mask registers, or from a register."""
    n = 8 * packed.type.count
    masks = ir.Constant(vector(I8, n), [1 << i % 8 for i in range(n)])
    return b.icmp_unsigned("!=", b.and_(pick(b, packed, [i // 8 for i in range(n)]), masks), constant(masks.type, 0))


def bytes_at(b: ir.IRBuilder, block: ir.Value, start: int, n: int) -> ir.Value:
    return load(b, offset(b, block, start), vector(I8, n))


def word(b: ir.IRBuilder, block: ir.Value, start: int, kind: ir.Type = I32) -> ir.Value:
    return load(b, offset(b, block, start), kind)


def halves(b: ir.IRBuilder, cpu: Target, blocks: Blocks, start: int) -> ir.Value:
    """A float16 of each block in four lanes."""
    if blocks.width == WINDOW and cpu.halves:
        starts = [start + blocks.size * i for i in range(blocks.count) for _ in range(4)]
        packed = b.bitcast(gathered(b, blocks, starts, 2), vector(ir.HalfType(), len(starts)))
        return b.fpext(packed, vector(F32, len(starts)))
    parts = [half(b, cpu, offset(b, blocks.base, blocks.size * i), start, 4) for i in range(blocks.count)]
    while len(parts) > 1:
        parts = [join(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


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


def floats_of(b: ir.IRBuilder, x: ir.Value, signed: bool = False) -> ir.Value:
    n = x.type.count
    wide = b.sext(x, vector(I32, n)) if signed else b.zext(x, vector(I32, n))
    return b.sitofp(wide, vector(F32, n))
