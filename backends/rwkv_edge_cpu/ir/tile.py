"""Tiles of blocks times several activation rows, as LLVM IR: lanes are rows of the weight, so nothing is summed across lanes.

A tile holds isa.rows rows of TILE_WIDTH weights: codes [k / 4, row, 4] as bytes, scales and offsets [group, row] as float32.
"""
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.dot import dot, join
from rwkv_edge_cpu.ir.neon import NEON, add_words
from rwkv_edge_cpu.ir.quantized import BLOCKS, product_bytes
from rwkv_edge_cpu.ir.vector import F32, I8, I32, I64, at, constant, load, multiply_add, offset, splat, store, vector
from rwkv_edge_cpu.shape.codes import RUN, zero_of

SQUARE = 4  # words, of as many rows


def block_unpack(cpu: Target, name: str) -> Any:
    """An intrinsic unpack(source, n, codes, scales, offsets): n blocks of a row, one behind the other."""
    size, format = FORMATS[name], BLOCKS[name]

    @intrinsic
    def unpack(typingctx, source, n, codes, scales, offsets):
        def codegen(context, b, signature, args):
            source, n, codes, scales, offsets = args
            groups = size.block_size // format.group
            with cgutils.for_range(b, n, intp=I64) as loop:
                parts = format.unpack(b, cpu, at(b, source, loop.index, size.block_bytes))
                for run, value in enumerate(parts.codes):
                    target = at(b, codes, loop.index, size.block_size)
                    store(b, product_bytes(b, cpu, name, value), offset(b, target, RUN * run))
                for values, base in ((parts.scales, scales), (parts.offsets, offsets)):
                    if values is not None:
                        one = b.extract_element(values, ir.Constant(I32, 0)) if groups == 1 else values
                        store(b, one, at(b, base, loop.index, 4 * groups))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return unpack


@intrinsic
def prefetch_bytes(typingctx, address, n):
    """To be read soon: the lines of these n bytes, to the second cache. Any address will do, also behind the file's end."""

    def codegen(context, b, signature, args):
        kind = I8.as_pointer()
        function = ir.FunctionType(ir.VoidType(), [kind, I32, I32, I32])
        hint = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
        lines = b.udiv(b.add(args[1], ir.Constant(I64, 63)), ir.Constant(I64, 64))
        with cgutils.for_range(b, lines, intp=I64) as loop:
            b.call(hint, [b.inttoptr(at(b, args[0], loop.index, 64), kind), *(ir.Constant(I32, i) for i in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def transposition(cpu: Target, of_squares: Callable[..., list[ir.Value]]) -> Any:
    """An intrinsic (source, stride, n, target): isa.rows rows of 4 * n words of four bytes, `stride` bytes from row to row, to
    columns in which a word of each row is side by side; of_squares: what four words of four rows become."""

    @intrinsic
    def transpose(typingctx, source, stride, n, target):
        def codegen(context, b, signature, args):
            source, stride, n, target = args
            rows, lanes = cpu.isa.rows, cpu.isa.native
            starts = [b.add(source, b.mul(stride, ir.Constant(I64, i))) for i in range(rows)]
            with cgutils.for_range(b, n, intp=I64) as loop:
                squares = [load(b, at(b, start, loop.index, 4 * SQUARE), vector(I32, SQUARE)) for start in starts]
                for first in range(0, rows, lanes):
                    # Rows 0, 4, 8, ... side by side, then rows 1, 5, 9, ...: each run of four lanes is a square of its own.
                    columns = [_joined(b, squares[first + i : first + lanes : SQUARE]) for i in range(SQUARE)]
                    for k, column in enumerate(of_squares(b, columns)):
                        place = at(b, target, loop.index, 4 * rows * SQUARE)
                        store(b, column, offset(b, place, 4 * (rows * k + first)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return transpose


def _joined(b, parts):
    while len(parts) > 1:
        parts = [join(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


HALVES = (0, 1, 4, 5), (2, 3, 6, 7)


def _chosen(b, x, y, pattern):
    """In each run of four lanes, these: 0 to 3 of x, 4 to 7 of y."""
    lanes = x.type.count
    numbers = [run + i if i < SQUARE else run + i - SQUARE + lanes for run in range(0, lanes, SQUARE) for i in pattern]
    return b.shuffle_vector(x, y, ir.Constant(vector(I32, lanes), numbers))


def _squares(b, columns):
    """Four vectors whose runs of four lanes are the rows of squares: the same with their columns."""
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    pairs = [[_chosen(b, columns[i], columns[i + 1], half) for half in (low, high)] for i in (0, 2)]
    return [_chosen(b, pairs[0][half], pairs[1][half], pattern) for half in (0, 1) for pattern in HALVES]


def _matrix_squares(b, columns):
    """As _squares, but for products of matrices: two words of the first two rows, of the second two; the other two words."""
    return [_chosen(b, columns[i], columns[i + 1], words) for words in HALVES for i in (0, 2)]


def transposed(b, rows):
    """Four words of each of these rows, <4 x i32>: four vectors of a word of each row."""
    return _squares(b, [_joined(b, rows[i::SQUARE]) for i in range(SQUARE)])


def transpose(cpu: Target) -> Any:
    """See `transposition`: for scales and offsets."""
    return transposition(cpu, _squares)


def transpose_codes(cpu: Target) -> Any:
    """In the order in which products take codes."""
    return transposition(cpu, _matrix_squares if cpu.isa.name == "neon_i8mm" else _squares)


def block_tile(cpu: Target, name: str) -> Any:
    """An intrinsic tile(codes, scales, offsets, x, x_scales, x_sums, x_origins, x_stride, last, runs, sums).

    sums[j, i] += row i of the tile times activation row min(j, last): isa.tokens by isa.rows sums over `runs` runs.
    x and so on: of the first activation row, where the tile begins; the next row's are x_stride bytes further.
    """

    @intrinsic
    def tile(typingctx, codes, scales, offsets, x, x_scales, x_sums, x_origins, x_stride, last, runs, sums):
        def codegen(context, b, signature, args):
            weights, activations, (x_stride, last, runs, sums) = args[:3], args[3:7], args[7:]
            rows, lanes = cpu.isa.rows, cpu.isa.native
            deltas = []
            for j in range(cpu.isa.tokens):
                index = ir.Constant(I64, j)
                deltas.append(b.mul(x_stride, b.select(b.icmp_signed("<", index, last), index, last)))
            kind = vector(F32, lanes)
            places = [[offset(b, sums, 4 * (rows * j + i)) for i in range(0, rows, lanes)] for j in range(len(deltas))]
            totals = [[cgutils.alloca_once_value(b, load(b, place, kind)) for place in of_token] for of_token in places]
            with cgutils.for_range(b, runs, intp=I64) as loop:
                _add_run(b, cpu, name, weights, activations, deltas, loop.index, totals)
            for of_token, parts in zip(places, totals, strict=True):
                for place, total in zip(of_token, parts, strict=True):
                    store(b, b.load(total), place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), codegen

    return tile


def _add_run(b, cpu, name, weights, activations, deltas, index, totals):
    """Add the products of run `index` of the tile."""
    codes, scales, offsets = weights
    format, rows, lanes = BLOCKS[name], cpu.isa.rows, cpu.isa.native
    groups, words = RUN // format.group, format.group // 4
    steps = RUN, 4, 4 * groups, 4 * groups
    x_bytes, x_scales, x_sums, x_origins = (at(b, x, index, step) for x, step in zip(activations, steps, strict=True))

    def of_rows(base, number, kind):
        """Number `number` of this run of all rows, as vectors."""
        return [load(b, offset(b, base, 4 * (rows * number + i)), kind) for i in range(0, rows, lanes)]

    def of_token(base, delta, number, kind):
        """Number `number` of this run of a token, in all lanes."""
        return splat(b, load(b, b.add(offset(b, base, 4 * number), delta), kind), lanes)

    codes = at(b, codes, index, RUN * rows)
    scales, offsets = (at(b, base, index, 4 * rows * groups) for base in (scales, offsets))
    values = [[None] * len(totals[0]) for _ in deltas]  # of the run, without the scale of the activations
    for group in range(groups):
        products = []
        for delta in deltas:
            start = of_token(x_origins, delta, group, I32) if zero_of(cpu, name) else constant(vector(I32, lanes), 0)
            products.append([start] * len(totals[0]))
        _add_words(b, cpu, name, codes, x_bytes, deltas, range(group * words, (group + 1) * words), products)
        for of_values, of_products in zip(values, products, strict=True):
            for i, scale in enumerate(of_rows(scales, group, vector(F32, lanes))):
                value = b.sitofp(of_products[i], scale.type)
                of_values[i] = multiply_add(b, value, scale, of_values[i]) if group else b.fmul(value, scale)
        for shifts in [of_rows(offsets, group, vector(F32, lanes))] if format.has_offsets else []:
            for delta, of_totals in zip(deltas, totals, strict=True):
                for shift, total in zip(shifts, of_totals, strict=True):
                    b.store(multiply_add(b, shift, of_token(x_sums, delta, group, F32), b.load(total)), total)
    for delta, of_values, of_totals in zip(deltas, values, totals, strict=True):
        for value, total in zip(of_values, of_totals, strict=True):
            b.store(multiply_add(b, value, of_token(x_scales, delta, 0, F32), b.load(total)), total)


def _add_words(b, cpu, name, codes, x, deltas, words, products):
    """Add to products[j], <lanes x i32> of all rows, what these words of the rows and of token j, at x + deltas[j], give."""
    rows, lanes = cpu.isa.rows, cpu.isa.native
    if cpu.isa.name in NEON:
        tokens = [b.add(offset(b, x, 4 * words[0]), delta) for delta in deltas]
        add_words(b, cpu.isa, name, offset(b, codes, 4 * rows * words[0]), tokens, len(words), products)
        return
    for word in words:
        places = [offset(b, codes, 4 * (rows * word + i)) for i in range(0, rows, lanes)]
        tile_codes = [load(b, place, vector(I8, 4 * lanes)) for place in places]
        for of_token, delta in zip(products, deltas, strict=True):
            four = splat(b, load(b, b.add(offset(b, x, 4 * word), delta), I32), lanes)
            for i, code in enumerate(tile_codes):
                of_token[i] = dot(b, cpu.isa, of_token[i], code, b.bitcast(four, code.type))
