"""How a kernel is defined, and compiled with Numba to an image of machine code.

    @kernel()                                        a module of kernels: imports Numba, so nothing imports it but
    def add(record, frame, scratch, begin, end): ... other such modules, and `machine_code` when its code is not in the cache

    def row_kernel(cpu: Target, format: str) -> Kernel:                                       one for each target and format,
        return kernel(REDUCTION)(specialized(template, format, dot=block_dot(cpu, format)))   from a template

Lowerings name them: kernel_name("kernels.elementwise.add"), kernel_name("kernels.quantized.row_kernel", format). An
image is for one target, also of a kernel that is written the same for all. It holds nothing of Numba's: a kernel cannot raise,
allocate or call Python, and of the system only what system.py lists.
"""
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import compiler
from numba.core.codegen import AOTCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from rwkv_edge.errors import BackendError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.code.image import Image
from rwkv_edge_cpu.code.link import linked
from rwkv_edge_cpu.code.target import Target

# Sums may be taken in any order. Never nnan or ninf: a NaN in a model file must reach the logits.
REDUCTION = frozenset({"reassoc", "contract"})
ELEMENTWISE = frozenset({"contract"})

KERNEL_SIGNATURE = types.void(*[types.int64] * 5)  # record, frame, scratch: addresses; begin, end: which units of the op
DECODE_SIGNATURE = types.void(*[types.int64] * 7)  # source, stride_out, stride_in, rows, n, target, target_stride
WALK_SIGNATURE = types.int64(*[types.int64] * 9)
ENTRY = "entry"


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function that compiled code calls by address. Its arguments are int64, its result is one or nothing."""

    function: Callable[..., Any]
    signature: Any
    fastmath: frozenset[str]

    def compiled(self, cpu: Target) -> Image:
        """Raises BackendError where it cannot be."""
        try:
            return linked(_object(self, cpu), ENTRY)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise BackendError(f"{self.function.__name__} cannot be compiled here: {reason}") from error


def kernel(fastmath: frozenset[str] = ELEMENTWISE) -> Callable[[Callable[..., None]], Kernel]:
    """Decorates f(record, frame, scratch, begin, end), which does units `begin` to `end` of an op."""
    return lambda function: Kernel(function, KERNEL_SIGNATURE, fastmath)


def decoder(function: Callable[..., None]) -> Kernel:
    """Decorates f(source, stride_out, stride_in, rows, n, target, target_stride); see decode.py."""
    return Kernel(function, DECODE_SIGNATURE, ELEMENTWISE)


def walker(function: Callable[..., int]) -> Kernel:
    """Decorates `interpreter.walk`."""
    return Kernel(function, WALK_SIGNATURE, ELEMENTWISE)


def with_globals(template: Callable[..., None], name: str, **values: Any) -> Callable[..., None]:
    """The template as a function of its own, with these globals."""
    function = FunctionType(template.__code__, template.__globals__ | values, name)
    function.__qualname__ = function.__name__
    function.__module__ = template.__module__
    return function


def specialized(template: Callable[..., None], format: str, **values: Any) -> Callable[..., None]:
    """As `with_globals`, for one weight format: BLOCK_SIZE and BLOCK_BYTES are globals too."""
    size = FORMATS[format]
    values |= {"BLOCK_SIZE": size.block_size, "BLOCK_BYTES": size.block_bytes}
    return with_globals(template, f"{template.__name__}_{format}", **values)


# For functions that kernels call: part of the caller, so a loop around them can become vector instructions.
# Without Numba's counting of references (_nrt), which its own runtime would have to do: they cannot return arrays.
inlined: Callable[..., Any] = numba.njit(forceinline=True, _nrt=False, error_model="numpy", fastmath=set(ELEMENTWISE))


class _Codegen(JITCPUCodegen):
    """Numba's own for this CPU, except that nothing is loaded."""

    _library_class = AOTCodeLibrary

    def _add_module(self, module: Any) -> None:
        pass


@cache
def _context() -> Any:
    return cpu_target.target_context.subtarget(_internal_codegen=_Codegen("rwkv_edge"))


@cache
def elf_machine(cpu: Target) -> tuple[str, Any]:
    """(triple, LLVM's target machine) for this system's calls, but ELF object files with relative references only."""
    features = cpu.features
    system = "pc-windows-msvc-elf" if sys.platform == "win32" else "unknown-linux-gnu"
    if sys.platform == "darwin" and not cpu.is_x86:
        features += ",+reserve-x18"  # which Apple's systems keep for themselves
    triple = f"{cpu.triple.partition('-')[0]}-{system}"
    target = binding.Target.from_triple(triple)
    return triple, target.create_target_machine(cpu=cpu.processor, features=features, opt=3, reloc="pic", codemodel="small")


@global_compiler_lock
def _object(kernel: Kernel, cpu: Target) -> bytes:
    """An object file with the function ENTRY, which is called as C functions are."""
    context, signature = _context(), kernel.signature
    flags = compiler.Flags()
    options = {"nopython": True, "_nrt": False, "error_model": "numpy", "fastmath": set(kernel.fastmath)}
    cpu_target.options.parse_as_flags(flags, options)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    library = context.codegen().create_library(kernel.function.__name__)
    description = compiler.compile_extra(
        cpu_target.typing_context, context, kernel.function, signature.args, signature.return_type, flags, {}, library=library
    ).fndesc
    library.add_ir_module(_entry(context, library, description))
    library.get_function(description.llvm_func_name).linkage = "internal"
    library.finalize()  # inlines, optimizes
    triple, machine = elf_machine(cpu)
    module = binding.parse_bitcode(library.emit_bitcode())
    module.triple, module.data_layout = triple, str(machine.target_data)
    data: bytes = machine.emit_object(module)
    return data


def _entry(context: Any, library: Any, description: Any) -> ir.Module:
    """Around the function as Numba calls it, which also returns whether it raised: a kernel never does."""
    module = library.create_ir_module(ENTRY)
    void = description.restype == types.void
    kind = ir.FunctionType(ir.VoidType() if void else ir.IntType(64), [ir.IntType(64)] * len(description.argtypes))
    entry = ir.Function(module, kind, ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    numbas = context.call_conv.get_function_type(description.restype, description.argtypes)
    callee = ir.Function(module, numbas, description.llvm_func_name)
    callee.attributes.add("alwaysinline")
    _, result = context.call_conv.call_function(
        builder, callee, description.restype, description.argtypes, entry.args
    )
    if void:
        builder.ret_void()
    else:
        builder.ret(result)
    return module
