"""What Numba's language lacks: memory by address, atomics, calls by address, bit casts."""
import sys
import time
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from rwkv_edge_cpu.code.system import CLOCK, YIELD, address_of

I32, I64, F32, F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
for _name in (YIELD, CLOCK):
    binding.add_symbol(_name, address_of(_name))  # Numba loads what it compiles, though only our images run


def _view(dtype: Any) -> Any:
    array_type = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typingctx, address, n):
        def codegen(context, builder, signature, args):
            array = context.make_array(array_type)(context, builder)
            itemsize = ir.Constant(I64, dtype.bitwidth // 8)
            data = builder.inttoptr(args[0], array.data.type)
            populate_array(array, data=data, shape=[args[1]], strides=[itemsize], itemsize=itemsize, meminfo=None)
            return array._getvalue()

        return array_type(types.int64, types.int64), codegen

    return view


floats = _view(types.float32)  # floats(address, n): the memory there as float32 [n]
int32s = _view(types.int32)
int64s = _view(types.int64)
int16s = _view(types.int16)
uint16s = _view(types.uint16)
uint8s = _view(types.uint8)


def _pointer(builder: ir.IRBuilder, address: ir.Value, element: ir.Type) -> ir.Value:
    return builder.inttoptr(address, element.as_pointer())


@intrinsic
def fetch_add(typingctx, address, amount):
    """Add to the int64 at `address`; returns what was there."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _pointer(builder, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def load_acquire(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(builder, args[0], I64), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spin loop."""

    def codegen(context, builder, signature, args):
        triple = builder.module.triple
        if triple.startswith(("x86_64", "amd64")):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif triple.startswith(("aarch64", "arm64")):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [I32]), "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, signature, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), YIELD)
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def clock(typingctx):
    """Now, in CLOCK_TICKS (see system.py) a second. Not a cycle counter: ARM lets no program read that."""

    def codegen(context, builder, signature, args):
        now = cgutils.alloca_once(builder, I64, size=2)
        if sys.platform == "win32":
            kind = ir.FunctionType(I32, [now.type])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, CLOCK), [now])
            return builder.load(now)
        kind = ir.FunctionType(I32, [I32, now.type])
        which = ir.Constant(I32, time.CLOCK_MONOTONIC)
        builder.call(cgutils.get_or_insert_function(builder.module, kind, CLOCK), [which, now])
        nanoseconds = builder.load(builder.gep(now, [ir.Constant(I32, 1)]))
        return builder.add(builder.mul(builder.load(now), ir.Constant(I64, 1_000_000_000)), nanoseconds)

    return types.int64(), codegen


def _call(n: int) -> Any:
    signature = types.void(*[types.int64] * (n + 1))

    def codegen(context, builder, signature, args):
        function = ir.FunctionType(ir.VoidType(), [I64] * n)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def call_kernel(typingctx, function, record, frame, scratch, begin, end):
    return _call(5)


@intrinsic
def call_decode(typingctx, function, source, stride_out, stride_in, rows, n, target, target_stride):
    return _call(7)


@intrinsic
def as_float64(typingctx, bits):
    """The float64 that has these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], F64)

    return types.float64(types.int64), codegen


@intrinsic
def scale_by_power(typingctx, x, shifted):
    """x * 2 ** n for n from -253 to 254, where `shifted` is n + 1.5 * 2 ** 23, whose low bits hold n."""

    def codegen(context, builder, signature, args):
        x, shifted = args
        n = builder.sub(builder.bitcast(shifted, I32), ir.Constant(I32, 0x4B400000))
        half = builder.ashr(n, ir.Constant(I32, 1))
        for part in (half, builder.sub(n, half)):  # in two steps: 2 ** n itself may be out of range where the product is not
            exponent = builder.shl(builder.add(part, ir.Constant(I32, 127)), ir.Constant(I32, 23))
            x = builder.fmul(x, builder.bitcast(exponent, F32))
        return x

    return types.float32(types.float32, types.float32), codegen
