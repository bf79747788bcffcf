"""Vector loops over weights, written as LLVM IR: loads of any alignment, every format, the vector length that the CPU has."""
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rwkv_edge_cpu.code.target import Target

F32, I1, I8, I16, I32, I64 = ir.FloatType(), ir.IntType(1), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
SQUARE = 4  # what `square_decode` takes at a time


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def splat(b: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    undefined = ir.Constant(vector(scalar.type, lanes), ir.Undefined)
    one = b.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(vector(I32, lanes), [0] * lanes))


def load(b: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """Whatever the address: files promise nothing about alignment."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(b: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 1


def call(b: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name), args)


def multiply_add(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x * y + z, fused where the CPU can."""
    kind = x.type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    return call(b, f"llvm.fmuladd.{suffix}", kind, x, y, z)


def sum_of_lanes(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    result = call(b, f"llvm.vector.reduce.fadd.v{v.type.count}f32", F32, ir.Constant(F32, -0.0), v)
    result.fastmath.add("reassoc")
    return result


def sums_of(b: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """<n x float>: the sum over the lanes of each of n vectors, a power of two, at most as many as they have lanes."""
    lanes, width = vectors[0].type.count, vectors[0].type.count  # width: lanes that belong to one sum
    while len(vectors) > 1 or width > 1:
        others = vectors[1::2] if len(vectors) > 1 else vectors
        parts = range(0, lanes, width)
        width //= 2
        low = [first + i for first in parts for i in range(width)]
        low += [lanes + i for i in low] if len(vectors) > 1 else []
        halves = [ir.Constant(vector(I32, len(low)), [i + by for i in low]) for by in (0, width)]
        pairs = zip(vectors[::2], others, strict=True)
        vectors = [b.fadd(*(b.shuffle_vector(x, y, half) for half in halves)) for x, y in pairs]
        lanes = len(low)
    return vectors[0]


def at(b: ir.IRBuilder, base: ir.Value, index: ir.Value, step: int) -> ir.Value:
    return b.add(base, b.mul(index, ir.Constant(I64, step)))


def offset(b: ir.IRBuilder, base: ir.Value, n: int) -> ir.Value:
    return b.add(base, ir.Constant(I64, n))


def prefetch(b: ir.IRBuilder, address: ir.Value) -> None:
    """To be read soon. Any address will do, also one behind the file's end."""
    kind = I8.as_pointer()
    function = ir.FunctionType(ir.VoidType(), [kind, I32, I32, I32])
    read, keep, data = (ir.Constant(I32, i) for i in (0, 3, 1))
    hint = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
    b.call(hint, [b.inttoptr(address, kind), read, keep, data])


def float_kind(lanes: int) -> ir.Type:
    return vector(F32, lanes) if lanes > 1 else F32


def constant(kind: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def load_f32(b: ir.IRBuilder, cpu: Target, address: ir.Value, lanes: int) -> ir.Value:
    return load(b, address, float_kind(lanes))


def load_bf16(b: ir.IRBuilder, cpu: Target, address: ir.Value, lanes: int) -> ir.Value:
    bits, wide = (vector(I16, lanes), vector(I32, lanes)) if lanes > 1 else (I16, I32)
    shifted = b.shl(b.zext(load(b, address, bits), wide), constant(wide, 16))
    return b.bitcast(shifted, float_kind(lanes))


def load_f16(b: ir.IRBuilder, cpu: Target, address: ir.Value, lanes: int) -> ir.Value:
    if cpu.halves:
        return b.fpext(load(b, address, vector(ir.HalfType(), lanes) if lanes > 1 else ir.HalfType()), float_kind(lanes))
    # Exponent and mantissa moved into place and multiplied by the ratio of the exponents' zeros: exact, subnormals included.
    bits, wide = (vector(I16, lanes), vector(I32, lanes)) if lanes > 1 else (I16, I32)
    half = b.zext(load(b, address, bits), wide)
    sign = b.shl(b.and_(half, constant(wide, 0x8000)), constant(wide, 16))
    size = b.shl(b.and_(half, constant(wide, 0x7FFF)), constant(wide, 13))
    finite = b.bitcast(b.fmul(b.bitcast(size, float_kind(lanes)), constant(float_kind(lanes), 2.0**112)), wide)
    special = b.or_(size, constant(wide, 0x7F800000))  # infinity and NaN
    chosen = b.select(b.icmp_unsigned(">=", size, constant(wide, 0x0F800000)), special, finite)
    return b.bitcast(b.or_(chosen, sign), float_kind(lanes))


Load = Callable[[ir.IRBuilder, Target, ir.Value, int], ir.Value]
PLAIN: dict[str, tuple[Load, int]] = {"f32": (load_f32, 4), "f16": (load_f16, 2), "bf16": (load_bf16, 2)}  # loader, bytes


def weight(cpu: Target, name: str) -> Any:
    """An intrinsic weight(address): one plain float of format `name`, as float32."""
    loader, _ = PLAIN[name]

    @intrinsic
    def one(typingctx, address):
        def codegen(context, b, signature, args):
            return loader(b, cpu, args[0], 1)

        return types.float32(types.int64), codegen

    return one


def plain_decode(cpu: Target, name: str) -> Any:
    """An intrinsic decode(source, n, target): n plain floats that lie one behind the other, as float32."""
    loader, size = PLAIN[name]

    @intrinsic
    def decode(typingctx, source, n, target):
        def codegen(context, b, signature, args):
            source, n, target = args
            whole = b.udiv(n, ir.Constant(I64, cpu.lanes))
            with cgutils.for_range(b, whole, intp=I64) as loop:
                value = loader(b, cpu, at(b, source, loop.index, size * cpu.lanes), cpu.lanes)
                store(b, value, at(b, target, loop.index, 4 * cpu.lanes))
            with cgutils.for_range(b, n, start=b.mul(whole, ir.Constant(I64, cpu.lanes)), intp=I64) as loop:
                store(b, loader(b, cpu, at(b, source, loop.index, size), 1), at(b, target, loop.index, 4))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    return decode


def square_decode(cpu: Target, name: str) -> Any:
    """An intrinsic decode(source, stride_in, target, target_stride): a square of SQUARE rows and columns, transposed.

    Column k of it is at source + k * stride_in, its weights one behind the other; row i goes to target + i * target_stride.
    """
    loader, _ = PLAIN[name]

    @intrinsic
    def decode(typingctx, source, stride_in, target, target_stride):
        def codegen(context, b, signature, args):
            source, stride_in, target, target_stride = args
            steps = [ir.Constant(I64, i) for i in range(SQUARE)]
            columns = [loader(b, cpu, b.add(source, b.mul(stride_in, k)), SQUARE) for k in steps]
            pairs = ir.Constant(vector(I32, 2 * SQUARE), [i + SQUARE * j for i in range(SQUARE) for j in range(2)])
            even, odd = b.shuffle_vector(columns[0], columns[1], pairs), b.shuffle_vector(columns[2], columns[3], pairs)
            for i in range(SQUARE):
                mask = [2 * i, 2 * i + 1, 2 * i + 2 * SQUARE, 2 * i + 1 + 2 * SQUARE]
                row = b.shuffle_vector(even, odd, ir.Constant(vector(I32, SQUARE), mask))
                store(b, row, b.add(target, b.mul(target_stride, steps[i])))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return decode
