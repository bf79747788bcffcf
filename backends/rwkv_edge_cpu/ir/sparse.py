"""Products of a matrix that lies by key (see shape/key_major.py) with a vector that is mostly zeros, as LLVM IR.

The vector's other keys are listed group by group, four at a time; a group has room for all of its keys:
    counts   int32 [n / group]: fours in the group
    indices  uint8 [n]: which key of its group; where a four is not full, the group's first one again
    values   int8 or float32 [n]: the activation, 0 where a four is not full
"""
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.codebook import look_up
from rwkv_edge_cpu.ir.dot import dot
from rwkv_edge_cpu.ir.quantized import part_of
from rwkv_edge_cpu.ir.vector import (
    F32,
    I8,
    I32,
    I64,
    PLAIN,
    at,
    constant,
    load,
    load_f16,
    multiply_add,
    offset,
    prefetch,
    splat,
    store,
    vector,
)
from rwkv_edge_cpu.shape.codes import ORIGINS, RUN, SCALES, SUMS, zero_of
from rwkv_edge_cpu.shape.key_major import KeyMajor, key_major, slab_outputs

LINE = 64
AHEAD = 1  # groups: the hardware does not guess which keys come next
FOUR = 4


def nonzero_keys(group: int, plain: bool) -> Any:
    """An intrinsic keys(x, indices, values): bits of the group's keys at x that are not zero. Fills the lists with the rest."""
    kind, zero = vector(F32 if plain else I8, group), 0.0 if plain else 0

    @intrinsic
    def keys(typingctx, x, indices, values):
        def codegen(context, b, signature, args):
            x, indices, values = args
            row, nothing = load(b, x, kind), constant(kind, zero)
            differs = b.fcmp_unordered("!=", row, nothing) if plain else b.icmp_signed("!=", row, nothing)
            bits = b.zext(b.bitcast(differs, ir.IntType(group)), I64)
            store(b, splat(b, b.trunc(_lowest(b, bits), I8), group), indices)
            store(b, nothing, values)
            return bits

        return types.int64(*[types.int64] * 3), codegen

    return keys


def list_key(plain: bool) -> Any:
    """An intrinsic add(x, indices, values, count, bits): the lowest set bit's key goes to place `count` of the lists."""
    element, size = (F32, 4) if plain else (I8, 1)

    @intrinsic
    def add(typingctx, x, indices, values, count, bits):
        def codegen(context, b, signature, args):
            x, indices, values, count, bits = args
            key = _lowest(b, bits)
            store(b, b.trunc(key, I8), b.add(indices, count))
            store(b, load(b, at(b, x, key, size), element), at(b, values, count, size))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return add


def _lowest(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    return b.cttz(bits, ir.Constant(ir.IntType(1), 0))


@dataclass(frozen=True, slots=True)
class KeyProduct:
    """The operands of one tile's product. x: the activation row as bytes, see ir/quantized.py; plain floats do not read it.

    tile, following: addresses of the tile and of what this thread will probably read next.  sums: float32 [width], the result.
    """

    b: ir.IRBuilder
    cpu: Target
    format: str
    lies: KeyMajor
    tile: ir.Value
    following: ir.Value
    width: ir.Value
    x: ir.Value
    n: ir.Value
    counts: ir.Value
    indices: ir.Value
    values: ir.Value
    sums: ir.Value

    def add_all(self) -> None:
        b = self.b
        groups = b.udiv(self.n, I64(self.lies.group))
        with cgutils.for_range(b, groups, intp=I64) as loop:
            here = KeyGroup.of(self, loop.index, self.tile)
            index = b.add(loop.index, I64(AHEAD))
            beyond = b.icmp_unsigned(">=", index, groups)
            index = b.select(beyond, b.sub(index, groups), index)
            soon = KeyGroup.of(self, index, b.select(beyond, self.following, self.tile))
            needed = b.icmp_unsigned("!=", here.fours, I64(0))
            if self.format not in PLAIN:  # an activation that is not finite has made its run's scale NaN, and its bytes 0
                needed = b.or_(needed, b.fcmp_unordered("uno", here.x_scale, here.x_scale))
            with b.if_then(needed):
                slabs = b.udiv(self.width, I64(slab_outputs(self.cpu, self.format)))
                with cgutils.for_range(b, slabs, intp=I64) as slab:
                    soon.fetch(slab.index)
                    if self.format in PLAIN:
                        here.add_floats(slab.index)
                    else:
                        here.add_codes(slab.index)


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """A group of keys in a tile. header: address of its block.  inside: its number there.  codes: address of its first key."""

    product: KeyProduct
    group: ir.Value
    header: ir.Value
    inside: ir.Value
    codes: ir.Value
    key_bytes: ir.Value
    fours: ir.Value

    @staticmethod
    def of(p: KeyProduct, group: ir.Value, tile: ir.Value) -> "KeyGroup":
        b, lies = p.b, p.lies
        key_bytes = b.udiv(b.mul(p.width, I64(lies.bits)), I64(8))
        block, inside = b.udiv(group, I64(lies.groups)), b.urem(group, I64(lies.groups))
        header = b.add(tile, b.mul(b.mul(block, p.width), I64(lies.block_bytes)))
        codes = b.add(header, b.mul(p.width, I64(lies.header)))
        codes = b.add(codes, b.mul(b.mul(inside, I64(lies.group)), key_bytes))
        return KeyGroup(p, group, header, inside, codes, key_bytes, b.zext(load(b, at(b, p.counts, group, 4), I32), I64))

    def of_group(self, part: int) -> ir.Value:
        """A number of the activation row that every group has."""
        p = self.product
        kind = I32 if part == ORIGINS else F32
        return load(p.b, at(p.b, part_of(p.b, p.x, p.n, part), self.group, 4), kind)

    @property
    def x_scale(self) -> ir.Value:
        p = self.product
        run = p.b.udiv(self.group, I64(RUN // p.lies.group))
        return load(p.b, at(p.b, part_of(p.b, p.x, p.n, SCALES), run, 4), F32)

    def keys(self, four: ir.Value, skip: ir.Value) -> list[ir.Value]:
        """Addresses of four keys' codes, `skip` bytes on."""
        b = self.product.b
        first = b.add(at(b, self.product.indices, self.group, self.product.lies.group), b.mul(four, I64(FOUR)))
        packed = load(b, first, I32)
        numbers = [b.zext(b.and_(b.lshr(packed, I32(8 * i)), I32(255)), I64) for i in range(FOUR)]
        start = b.add(self.codes, skip)
        return [b.add(start, b.mul(number, self.key_bytes)) for number in numbers]

    def factors(self, four: ir.Value, size: int) -> ir.Value:
        """Address of four keys' activations."""
        b = self.product.b
        return b.add(at(b, self.product.values, self.group, size * self.product.lies.group), b.mul(four, I64(FOUR * size)))

    def scales_at(self, part: int, output: ir.Value) -> ir.Value:
        b, width = self.product.b, self.product.width
        return b.add(self.header, b.mul(b.add(b.mul(width, I64(part)), output), I64(2)))

    def multipliers_at(self, part: int, output: ir.Value) -> ir.Value:
        b, width, lies = self.product.b, self.product.width, self.product.lies
        row = b.add(self.inside, I64(2 * len(lies.fields) + lies.groups * part))
        return b.add(b.add(self.header, b.mul(row, width)), output)

    def fetch(self, slab: ir.Value) -> None:
        """Prefetch a slab's weights."""
        p = self.product
        b, lies, outputs = p.b, p.lies, slab_outputs(p.cpu, p.format)
        nbytes = outputs * lies.bits // 8
        skip, first = b.mul(slab, I64(nbytes)), b.mul(slab, I64(outputs))
        with b.if_then(b.icmp_unsigned("==", b.and_(skip, I64(LINE - 1)), I64(0))) if nbytes < LINE else nullcontext():
            with cgutils.for_range(b, self.fours, intp=I64) as loop:
                for key in self.keys(loop.index, skip):
                    _fetch(b, key, nbytes)
            if lies.unit:
                for part in range(len(lies.fields)):
                    _fetch(b, self.multipliers_at(part, first), outputs)
        with b.if_then(b.icmp_unsigned("==", self.inside, I64(0))):
            for part in range(len(lies.fields)):
                _fetch(b, self.scales_at(part, first), 2 * outputs)

    def add_floats(self, slab: ir.Value) -> None:
        p = self.product
        b, lanes, outputs = p.b, p.cpu.lanes, slab_outputs(p.cpu, p.format)
        loader, size = PLAIN[p.format]
        skip, target = b.mul(slab, I64(outputs * size)), at(b, p.sums, slab, 4 * outputs)
        kind = vector(F32, lanes)
        totals = [cgutils.alloca_once(b, kind) for _ in range(outputs // lanes)]
        for i, total in enumerate(totals):
            b.store(load(b, offset(b, target, 4 * lanes * i), kind), total)
        with cgutils.for_range(b, self.fours, intp=I64) as loop:
            values = self.factors(loop.index, 4)
            for j, key in enumerate(self.keys(loop.index, skip)):
                factor = splat(b, load(b, offset(b, values, 4 * j), F32), lanes)
                for i, total in enumerate(totals):
                    weights = loader(b, p.cpu, offset(b, key, size * lanes * i), lanes)
                    b.store(multiply_add(b, weights, factor, b.load(total)), total)
        for i, total in enumerate(totals):
            store(b, b.load(total), offset(b, target, 4 * lanes * i))

    def add_codes(self, slab: ir.Value) -> None:
        p = self.product
        b, lies, chosen = p.b, p.lies, p.cpu.isa
        lanes = chosen.native
        halves = 8 // lies.bits
        start = splat(b, self.of_group(ORIGINS), lanes) if zero_of(p.cpu, p.format) else constant(vector(I32, lanes), 0)
        totals = [cgutils.alloca_once(b, vector(I32, lanes)) for _ in range(FOUR * halves)]
        for total in totals:
            b.store(start, total)
        skip = b.mul(slab, I64(FOUR * lanes))
        with cgutils.for_range(b, self.fours, intp=I64) as loop:
            rows = [load(b, key, vector(I8, FOUR * lanes)) for key in self.keys(loop.index, skip)]
            factor = b.bitcast(splat(b, load(b, self.factors(loop.index, 1), I32), lanes), vector(I8, FOUR * lanes))
            for i, codes in enumerate(woven(b, rows)):
                for half, part in enumerate(_codes(b, p.cpu, lies, codes)):
                    total = totals[half * FOUR + i]
                    b.store(dot(b, chosen, b.load(total), part, factor), total)
        factor = splat(b, b.fmul(self.x_scale, F32(lies.unit or 1.0)), lanes)
        rest = splat(b, self.of_group(SUMS), lanes) if len(lies.fields) > 1 else None
        for i, total in enumerate(totals):
            output = offset(b, b.mul(slab, I64(FOUR * lanes * halves)), lanes * i)
            place = at(b, p.sums, output, 4)
            scale = b.fmul(self.scale(0, output), factor)
            value = multiply_add(b, b.sitofp(b.load(total), scale.type), scale, load(b, place, scale.type))
            if rest is not None:
                value = multiply_add(b, self.scale(1, output), rest, value)
            store(b, value, place)

    def scale(self, part: int, output: ir.Value) -> ir.Value:
        """The scales of as many outputs as there are lanes, in `unit`s, or their offsets."""
        p, lanes = self.product, self.product.cpu.isa.native
        scale = load_f16(p.b, p.cpu, self.scales_at(part, output), lanes)
        if not p.lies.unit:
            return scale
        counts = load(p.b, self.multipliers_at(part, output), vector(I8, lanes))
        return p.b.fmul(scale, p.b.sitofp(p.b.sext(counts, vector(I32, lanes)), scale.type))


def _fetch(b: ir.IRBuilder, address: ir.Value, nbytes: int) -> None:
    for start in range(0, nbytes, LINE):
        prefetch(b, offset(b, address, start))


def woven(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Four keys' bytes, those of one output side by side."""
    pairs = zip(_weave(b, rows[0], rows[1], 1), _weave(b, rows[2], rows[3], 1), strict=True)
    return [b.bitcast(four, rows[0].type) for x, y in pairs for four in _weave(b, x, y, 2)]


def _weave(b: ir.IRBuilder, x: ir.Value, y: ir.Value, size: int) -> list[ir.Value]:
    """Elements of `size` bytes of x and y in turn: first those of the lower halves of each 16 bytes, then of the upper ones.

    That is one instruction each on every CPU; across 16 bytes it would not be.
    """
    n, part = x.type.count * x.type.element.width // 8 // size, 16 // size
    x, y = (b.bitcast(row, vector(ir.IntType(8 * size), n)) for row in (x, y))
    results = []
    for half in (0, part // 2):
        numbers = [start + half + i + n * j for start in range(0, n, part) for i in range(part // 2) for j in range(2)]
        results.append(b.shuffle_vector(x, y, ir.Constant(vector(I32, n), numbers)))
    return results


def _codes(b: ir.IRBuilder, cpu: Target, lies: KeyMajor, codes: ir.Value) -> list[ir.Value]:
    """As the product takes them; of 4 bits: first those in the bytes' lower halves."""
    if lies.bits == 8:
        return [codes]
    parts = [b.and_(codes, constant(codes.type, 15)), b.lshr(codes, constant(codes.type, 4))]
    if not lies.levels:
        return parts
    zero = 128 if cpu.isa.unsigned else 0
    return [look_up(b, cpu, [level + zero for level in lies.levels], part) for part in parts]


def sparse_product(cpu: Target, format: str) -> Any:
    """An intrinsic product(tile, following, width, x, n, counts, indices, values, sums), see KeyProduct: adds to `sums`."""

    @intrinsic
    def product(typingctx, tile, following, width, x, n, counts, indices, values, sums):
        def codegen(context, b, signature, args):
            KeyProduct(b, cpu, format, key_major(format), *args).add_all()
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return product
