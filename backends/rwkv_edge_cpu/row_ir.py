"""A row of blocks times an activation row as bytes, as LLVM IR: what all block formats share.

Rows are read one after the other, as they lie: several at a time would share the activations, but the memory system, which
expects a single stream, then delivers half as much.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu import isa
from rwkv_edge_cpu.codes import PAIRS, PIECES, SCALES, STARTS, SUMS, zero_of
from rwkv_edge_cpu.dot_ir import dot, indices, pick
from rwkv_edge_cpu.pieces_ir import PIECE, RUN, BlockFormat
from rwkv_edge_cpu.quantized_ir import BLOCKS, part_of, product_bytes
from rwkv_edge_cpu.vector_ir import (
    F32,
    I8,
    I32,
    I64,
    Target,
    at,
    constant,
    load,
    multiply_add,
    offset,
    prefetch,
    splat,
    sum_of_lanes,
    vector,
)

AHEAD = 8192  # bytes: beyond the page, at whose end the memory system stops by itself
AT_ONCE = 128  # weights at least: enough work that does not wait for other work
N_SUMS = 4
LINE = 64  # bytes that memory hands over at once


@dataclass(frozen=True, slots=True)
class Chains:
    """How the vectors of codes, `width` bytes each, of the blocks taken together become sums of products.

    pieces: vectors whose products are added as integers, because they share scales.  groups: scales in such a vector.
    count: of chains.  blocks: taken together.
    """

    format: BlockFormat
    width: int
    blocks: int
    pieces: int
    groups: int
    count: int

    @staticmethod
    def of(format: BlockFormat, width: int) -> "Chains":
        if format.runs == 1:
            return Chains(format, width, width // PIECE, RUN // PIECE, width // PIECE, 1)
        pieces, groups = max(1, format.group // width), max(1, width // format.group)
        return Chains(format, width, 1, pieces, groups, format.runs * RUN // (width * pieces))

    @property
    def lanes(self) -> int:
        return self.width // 4

    def spread(self, b: ir.IRBuilder, values: ir.Value, chain: int) -> ir.Value:
        """A lane for each group of all chains, to the lanes of one chain."""
        first = chain * self.groups
        return pick(b, values, [first + i * self.groups // self.lanes for i in range(self.lanes)])

    def first_lanes(self, b: ir.IRBuilder, values: ir.Value) -> ir.Value:
        """A lane for each group of a chain, to the first lane of its group; zeros elsewhere."""
        each = self.lanes // self.groups
        order = [self.groups if i % each else i // each for i in range(self.lanes)]
        return b.shuffle_vector(values, constant(values.type, 0), indices(order))


@dataclass(frozen=True, slots=True)
class Activations:
    """What the weights of some blocks meet. codes: vectors as those of the weights.  starts: of each chain's integer sums.

    scales, sums: as the scales and offsets of the weights.
    """

    codes: list[ir.Value]
    starts: list[ir.Value]
    scales: ir.Value
    sums: ir.Value

    @staticmethod
    def at(b: ir.IRBuilder, chains: Chains, x: ir.Value, n: ir.Value, run: ir.Value) -> "Activations":
        """From run `run` on of the activation row x [n]."""
        format = chains.format
        runs, per_run = chains.blocks * format.runs, RUN // format.group
        bytes_ = at(b, part_of(b, x, n, PIECES) if chains.blocks > 1 else x, run, RUN)
        codes = [load(b, offset(b, bytes_, i), vector(I8, chains.width)) for i in range(0, RUN * runs, chains.width)]
        starts = [constant(vector(I32, chains.lanes), 0)] * chains.count
        if zero_of(format.name):
            part, size = (PAIRS, PIECE) if chains.pieces > 1 else (STARTS, RUN)
            first = at(b, part_of(b, x, n, part), run, size)
            starts = [load(b, offset(b, first, chains.width * i), start.type) for i, start in enumerate(starts)]
        scales = load(b, at(b, part_of(b, x, n, SCALES), run, 4), vector(F32, runs))
        sums = load(b, at(b, part_of(b, x, n, SUMS), run, 4 * per_run), vector(F32, runs * per_run))
        if format.runs == 1:
            return Activations(codes, starts, chains.spread(b, scales, 0), chains.first_lanes(b, sums))
        of_groups = scales if per_run == 1 else pick(b, scales, [i // per_run for i in range(runs * per_run)])
        return Activations(codes, starts, of_groups, sums)


def block_dot(name: str) -> Any:
    """An intrinsic dot(row, x, n): a row of weights [n] times an activation row as bytes."""
    format, size = BLOCKS[name], FORMATS[name]

    @intrinsic
    def row_dot(typingctx, row, x, n):
        def codegen(context, b, signature, args):
            row, x, n = args
            cpu, width = Target.of(context), 4 * isa.chosen().native
            chains = Chains.of(format, width)
            steps = max(1, AT_ONCE // (chains.blocks * size.block_size))
            sums = [zeros(b, chains.lanes) for _ in range(min(N_SUMS, steps * chains.count))]
            rest = zeros(b, size.block_size // format.group if format.runs > 1 else 4)
            blocks, together = b.udiv(n, ir.Constant(I64, size.block_size)), ir.Constant(I64, steps * chains.blocks)
            end = b.udiv(blocks, together)
            with cgutils.for_range(b, end, intp=I64) as loop:
                first = b.mul(loop.index, together)
                prefetch_ahead(b, at(b, row, first, size.block_bytes), steps * chains.blocks * size.block_bytes)
                for i in range(steps):
                    add_blocks(b, cpu, chains, row, x, n, offset(b, first, i * chains.blocks), sums[i:] + sums[:i], rest)
            if format.runs == 1:
                with cgutils.for_range(b, blocks, start=b.mul(end, together), intp=I64) as loop:
                    add_blocks(b, cpu, Chains.of(format, PIECE), row, x, n, loop.index, [rest], rest)
            return sum_of_all(b, [b.load(total) for total in (*sums, rest)])

        return types.float32(types.int64, types.int64, types.int64), codegen

    return row_dot


def zeros(b: ir.IRBuilder, lanes: int) -> ir.Value:
    """Address of a sum of so many lanes."""
    return cgutils.alloca_once_value(b, constant(vector(F32, lanes), 0.0))


def prefetch_ahead(b: ir.IRBuilder, address: ir.Value, n: int) -> None:
    """As many bytes as are read from `address` on, that much later."""
    for i in range(0, n, LINE):
        prefetch(b, offset(b, address, AHEAD + i))


def add_blocks(b, cpu, chains, row, x, n, index, sums, rest):
    """Add the products of the blocks from block `index` on to `sums`, in turn, and those of large blocks' offsets to `rest`."""
    format = chains.format
    with_x = Activations.at(b, chains, x, n, b.mul(index, ir.Constant(I64, format.runs)))
    parts = format.take(b, cpu, format.blocks(at(b, row, index, FORMATS[format.name].block_bytes), chains.width))
    factors = _factors(b, chains, parts.scales, with_x.scales)
    for chain, product in enumerate(with_x.starts):
        for i in range(chain * chains.pieces, (chain + 1) * chains.pieces):
            weights = product_bytes(b, format.name, parts.codes[i])
            product = dot(b, isa.chosen(), product, weights, with_x.codes[i], small=format.zero is not None)
        factor = factors if format.runs == 1 else chains.spread(b, factors, chain)
        add_product(b, b.sitofp(product, factor.type), factor, sums[chain % len(sums)])
    if parts.offsets is not None:
        add_product(b, parts.offsets, with_x.sums, sums[0] if format.runs == 1 else rest)


def _factors(b: ir.IRBuilder, chains: Chains, scales: ir.Value, x_scales: ir.Value) -> ir.Value:
    if chains.blocks > 1 or chains.format.runs > 1:
        return b.fmul(scales, x_scales)
    first = ir.Constant(I32, 0)  # lanes are alike
    return splat(b, b.fmul(b.extract_element(scales, first), b.extract_element(x_scales, first)), chains.lanes)


def add_product(b: ir.IRBuilder, x: ir.Value, y: ir.Value, total: ir.Value) -> None:
    b.store(multiply_add(b, x, y, b.load(total)), total)


def sum_of_all(b: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
    """Over the lanes of sums of several lengths."""
    total, *others = sorted(sums, key=lambda one: -one.type.count)
    for other in others:
        while total.type.count > other.type.count:
            n = total.type.count // 2
            total = b.fadd(pick(b, total, range(n)), pick(b, total, range(n, 2 * n)))
        total = b.fadd(total, other)
    return sum_of_lanes(b, total)
