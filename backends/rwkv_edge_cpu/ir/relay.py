"""Taking a file's blocks apart and turning rows into columns, as LLVM IR: it becomes what shape/key_major.py describes."""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.quantized import BLOCKS, product_bytes
from rwkv_edge_cpu.ir.vector import I8, I16, I32, I64, call, constant, load, offset, prefetch, store, vector
from rwkv_edge_cpu.shape.codes import RUN
from rwkv_edge_cpu.shape.key_major import KeyMajor, key_major

SIDE = 16  # rows and columns that are turned at a time
ONE = 0x3C00  # float16
EXPONENTS = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000}  # all ones: infinity or NaN
AHEAD = 256  # bytes of a row: rows are far apart, and read a block each in turn


def block_apart(cpu: Target, format: str) -> Any:
    """An intrinsic apart(block, codes, header, width, output): a block's codes to `codes`, a byte each, and its scales to where
    those of output `output` are in a tile's block that begins at `header`. Returns 1 where the scales are finite, else 0."""
    size, lies = FORMATS[format], key_major(format)

    @intrinsic
    def apart(typingctx, block, codes, header, width, output):
        def codegen(context, b, signature, args):
            block, codes, header, width, output = args
            prefetch(b, offset(b, block, AHEAD))
            halves = [load(b, offset(b, block, field), I16) for field in lies.fields]
            place = b.add(header, b.mul(output, ir.Constant(I64, 2)))
            for half in halves:
                store(b, half, place)
                place = b.add(place, b.mul(width, ir.Constant(I64, 2)))
            if lies.unit:
                place, block = b.sub(place, output), _with_unit_scale(b, block, size.block_bytes, lies.fields)
            parts = BLOCKS[format].unpack(b, cpu, block)
            for run, run_codes in enumerate(parts.codes):
                found = position(b, lies, run_codes) if lies.levels else product_bytes(b, cpu, format, run_codes)
                store(b, found, offset(b, codes, RUN * run))
            if lies.unit:
                for scales in (parts.scales, parts.offsets)[: len(lies.fields)]:
                    assert scales is not None
                    counts = b.fptosi(b.fmul(scales, constant(scales.type, 1 / lies.unit)), vector(I8, lies.groups))
                    for i in range(lies.groups):
                        store(b, b.extract_element(counts, ir.Constant(I32, i)), place)
                        place = b.add(place, width)
            return b.zext(_all_finite(b, halves, EXPONENTS["f16"]), I64)

        return types.int64(*[types.int64] * 5), codegen

    return apart


def _all_finite(b: ir.IRBuilder, bits: list[ir.Value], exponent: int) -> ir.Value:
    finite = ir.Constant(ir.IntType(1), 1)
    for value in bits:
        mask = constant(value.type, exponent)
        whole = b.icmp_unsigned("!=", b.and_(value, mask), mask)
        if isinstance(whole.type, ir.VectorType):
            whole = call(b, f"llvm.vector.reduce.and.v{whole.type.count}i1", whole.type.element, whole)
        finite = b.and_(finite, whole)
    return finite


def _with_unit_scale(b: ir.IRBuilder, block: ir.Value, nbytes: int, fields: tuple[int, ...]) -> ir.Value:
    """Address of a copy whose scale (and offset) is 1: what comes out of it are the groups' multipliers."""
    copy = cgutils.alloca_once(b, I8, size=nbytes)
    cgutils.raw_memcpy(b, copy, b.inttoptr(block, copy.type), I64(nbytes), 1)
    address = b.ptrtoint(copy, I64)
    for field in fields:
        store(b, ir.Constant(I16, ONE), offset(b, address, field))
    return address


def position(b: ir.IRBuilder, lies: KeyMajor, codes: ir.Value) -> ir.Value:
    """Where in the table of levels, which ascend, the codes are."""
    result = constant(codes.type, 0)
    for level in lies.levels[1:]:
        result = b.sub(result, b.sext(b.icmp_signed(">=", codes, constant(codes.type, level)), codes.type))
    return result


def turned(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of SIDE rows of as many elements: four times, rows i and i + 8 are shuffled like the halves of a deck."""
    half = SIDE // 2
    decks = [
        ir.Constant(vector(I32, SIDE), [first + i + SIDE * j for i in range(half) for j in range(2)]) for first in (0, half)
    ]
    for _ in range(4):
        pairs = list(zip(rows[:half], rows[half:], strict=True))
        rows = [b.shuffle_vector(p, q, deck) for p, q in pairs for deck in decks]
    return rows


def square_turn(format: str) -> Any:
    """An intrinsic turn(source, stride, last, target, target_stride): a square of SIDE rows and columns, transposed.

    Codes of 4 bits are bytes in the source; SIDE further rows become the upper halves of the target's bytes. Rows of plain
    floats behind row `last` are that one again. Returns 1 where plain floats are finite, else 0.
    """
    bits = key_major(format).bits
    element = ir.IntType(max(8, bits))

    @intrinsic
    def turn(typingctx, source, stride, last, target, target_stride):
        def codegen(context, b, signature, args):
            source, stride, last, target, target_stride = args

            def square(first: int) -> list[ir.Value]:
                rows = []
                for i in range(first, first + SIDE):
                    row = ir.Constant(I64, i)
                    if format in EXPONENTS:
                        row = b.select(b.icmp_signed("<", row, last), row, last)
                    rows.append(load(b, b.add(source, b.mul(stride, row)), vector(element, SIDE)))
                return rows

            rows = square(0)
            columns = turned(b, rows)
            if bits == 4:
                uppers = turned(b, square(SIDE))
                columns = [b.or_(p, b.shl(q, constant(q.type, 4))) for p, q in zip(columns, uppers, strict=True)]
            for i, column in enumerate(columns):
                store(b, column, b.add(target, b.mul(target_stride, ir.Constant(I64, i))))
            return b.zext(_all_finite(b, rows if format in EXPONENTS else [], EXPONENTS.get(format, 0)), I64)

        return types.int64(*[types.int64] * 5), codegen

    return turn
