"""A row of blocks times an activation row as bytes, as LLVM IR: what all block formats share.

For one activation row, rows are read one after the other, as they lie: several at a time would share the activations, but the
memory system, which expects a single stream, then delivers half as much. For a few, whose products take longer than the memory,
both are shared: what a vector of weights is unpacked to, and where registers suffice what is loaded of the activations.
"""
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import dot, indices, pick
from rwkv_edge_cpu.ir.pieces import BlockFormat
from rwkv_edge_cpu.ir.quantized import BLOCKS, part_of, product_bytes
from rwkv_edge_cpu.ir.vector import (
    F32,
    I8,
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
    sum_of_lanes,
    vector,
)
from rwkv_edge_cpu.shape.codes import PAIRS, PIECE, PIECES, RUN, SCALES, STARTS, SUMS, zero_of

AHEAD = 8192  # bytes: beyond the page, at whose end the memory system stops by itself
AT_ONCE = 128  # weights at least: enough work that does not wait for other work
N_SUMS = 4
ROW_TOKENS = 4  # activation rows that are multiplied together
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
    def at(b: ir.IRBuilder, cpu: Target, chains: Chains, x: ir.Value, n: ir.Value, run: ir.Value) -> "Activations":
        """From run `run` on of the activation row x [n]."""
        format = chains.format
        runs, per_run = chains.blocks * format.runs, RUN // format.group
        bytes_ = at(b, part_of(b, x, n, PIECES) if chains.blocks > 1 else x, run, RUN)
        codes = [load(b, offset(b, bytes_, i), vector(I8, chains.width)) for i in range(0, RUN * runs, chains.width)]
        starts = [constant(vector(I32, chains.lanes), 0)] * chains.count
        if zero_of(cpu, format.name):
            part, size = (PAIRS, PIECE) if chains.pieces > 1 else (STARTS, RUN)
            first = at(b, part_of(b, x, n, part), run, size)
            starts = [load(b, offset(b, first, chains.width * i), start.type) for i, start in enumerate(starts)]
        scales = load(b, at(b, part_of(b, x, n, SCALES), run, 4), vector(F32, runs))
        sums = load(b, at(b, part_of(b, x, n, SUMS), run, 4 * per_run), vector(F32, runs * per_run))
        if format.runs == 1:
            return Activations(codes, starts, chains.spread(b, scales, 0), chains.first_lanes(b, sums))
        of_groups = scales if per_run == 1 else pick(b, scales, [i // per_run for i in range(runs * per_run)])
        return Activations(codes, starts, of_groups, sums)


@dataclass(frozen=True, slots=True)
class Totals:
    """Addresses of what becomes a row's product: `sums` take turns; rest: of what does not fill a vector."""

    sums: list[ir.Value]
    rest: ir.Value


def block_dot(cpu: Target, name: str) -> Any:
    """An intrinsic dot(row, x, n): a row of weights [n] times an activation row as bytes."""

    @intrinsic
    def row_dot(typingctx, row, x, n):
        def codegen(context, b, signature, args):
            row, x, n = args
            return _products(b, cpu, BLOCKS[name], [row], [x], n)[0][0]

        return types.float32(types.int64, types.int64, types.int64), codegen

    return row_dot


def dots_rows(cpu: Target, name: str) -> int:
    """Rows of weights that `block_dots` takes together: what 32 vector registers hold beside the sums."""
    return 2 if BLOCKS[name].runs == 1 and cpu.isa.native == 16 else 1


def block_dots(cpu: Target, name: str) -> Any:
    """An intrinsic dots(rows, stride, last_row, x, x_stride, last, n, y, y_stride): rows of weights [n] times activation rows.

    y[j, i] = row i times activation row j as bytes, for i <= last_row < dots_rows(cpu, name), j <= last < ROW_TOKENS.
    Addresses, and strides in bytes.
    """

    @intrinsic
    def row_dots(typingctx, rows, stride, last_row, x, x_stride, last, n, y, y_stride):
        def codegen(context, b, signature, args):
            rows, stride, last_row, x, x_stride, last, n, y, y_stride = args
            row_numbers, x_numbers = _up_to(b, last_row, dots_rows(cpu, name)), _up_to(b, last, ROW_TOKENS)
            weights = [b.add(rows, b.mul(stride, i)) for i in row_numbers]
            xs = [b.add(x, b.mul(x_stride, j)) for j in x_numbers]
            for i, products in zip(row_numbers, _products(b, cpu, BLOCKS[name], weights, xs, n), strict=True):
                for j, product in zip(x_numbers, products, strict=True):
                    store(b, product, at(b, b.add(y, b.mul(y_stride, j)), i, 4))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return row_dots


def _up_to(b, last, n):
    """Numbers 0 to n - 1; behind the last one: the last one again."""
    return [b.select(b.icmp_signed("<", ir.Constant(I64, i), last), ir.Constant(I64, i), last) for i in range(n)]


def _products(b, cpu, format, rows, xs, n):
    """Each row of weights times each of these activation rows: what either is made of is read and taken apart once."""
    size = FORMATS[format.name]
    chains = Chains.of(format, 4 * cpu.isa.native)
    steps = max(1, AT_ONCE // (chains.blocks * size.block_size))
    n_sums = min(max(1, N_SUMS // (len(rows) * len(xs))), steps * chains.count)
    totals = [
        [Totals([zeros(b, chains.lanes) for _ in range(n_sums)], zeros(b, rest_lanes(format))) for _ in xs] for _ in rows
    ]
    blocks, together = b.udiv(n, ir.Constant(I64, size.block_size)), ir.Constant(I64, steps * chains.blocks)
    end = b.udiv(blocks, together)
    with cgutils.for_range(b, end, intp=I64) as loop:
        first = b.mul(loop.index, together)
        read = steps * chains.blocks * size.block_bytes
        for row in rows:
            prefetch_ahead(b, at(b, row, first, size.block_bytes), read)
        for i in range(steps):
            turned = [[Totals(total.sums[i:] + total.sums[:i], total.rest) for total in of_row] for of_row in totals]
            add_blocks(b, cpu, chains, rows, xs, n, offset(b, first, i * chains.blocks), turned)
    if format.runs == 1:
        with cgutils.for_range(b, blocks, start=b.mul(end, together), intp=I64) as loop:
            rests = [[Totals([total.rest], total.rest) for total in of_row] for of_row in totals]
            add_blocks(b, cpu, Chains.of(format, PIECE), rows, xs, n, loop.index, rests)
    return [[sum_of_all(b, [b.load(one) for one in (*total.sums, total.rest)]) for total in of_row] for of_row in totals]


def rest_lanes(format: BlockFormat) -> int:
    return 4 if format.runs == 1 else format.runs * RUN // format.group


def zeros(b: ir.IRBuilder, lanes: int) -> ir.Value:
    """Address of a sum of so many lanes."""
    return cgutils.alloca_once_value(b, constant(vector(F32, lanes), 0.0))


def prefetch_ahead(b: ir.IRBuilder, address: ir.Value, n: int) -> None:
    """As many bytes as are read from `address` on, that much later."""
    for i in range(0, n, LINE):
        prefetch(b, offset(b, address, AHEAD + i))


def add_blocks(b, cpu, chains, rows, xs, n, index, totals):
    """Add the products of each row's blocks from block `index` on with each of `xs` to totals[row][x]."""
    format = chains.format
    run = b.mul(index, ir.Constant(I64, format.runs))
    with_xs = [Activations.at(b, cpu, chains, x, n, run) for x in xs]
    for row, of_row in zip(rows, totals, strict=True):
        parts = format.take(b, cpu, format.blocks(at(b, row, index, FORMATS[format.name].block_bytes), chains.width))
        parts = parts._replace(codes=[product_bytes(b, cpu, format.name, codes) for codes in parts.codes])
        for with_x, total in zip(with_xs, of_row, strict=True):
            _add_products(b, cpu, chains, parts, with_x, total)


def _add_products(b, cpu, chains, parts, with_x, total):
    """To total.sums, in turn; those of large blocks' offsets to total.rest."""
    format, sums = chains.format, total.sums
    factors = _factors(b, chains, parts.scales, with_x.scales)
    for chain, product in enumerate(with_x.starts):
        for i in range(chain * chains.pieces, (chain + 1) * chains.pieces):
            product = dot(b, cpu.isa, product, parts.codes[i], with_x.codes[i], small=format.zero is not None)
        factor = factors if format.runs == 1 else chains.spread(b, factors, chain)
        add_product(b, b.sitofp(product, factor.type), factor, sums[chain % len(sums)])
    if parts.offsets is not None:
        add_product(b, parts.offsets, with_x.sums, sums[0] if format.runs == 1 else total.rest)


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
