"""The addresses of kernels: loaded from what an earlier process kept, or compiled now, which needs Numba and takes long."""
import logging
import time
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from rwkv_edge.errors import BackendError
from rwkv_edge.machine.turns import Turns
from rwkv_edge_cpu.code import kept
from rwkv_edge_cpu.code.image import Image
from rwkv_edge_cpu.code.target import Target

if TYPE_CHECKING:
    from rwkv_edge_cpu.code.jit import Kernel

_log = logging.getLogger("rwkv_edge.kernels")
_turns = Turns(reentrant=True)


@dataclass(frozen=True, slots=True)
class KernelName:
    """Where a `jit.Kernel` is defined, for those who must not import it: a name in one of this package's modules.

    The name is the kernel's, or that of a function which makes it: of a target and these arguments.
    """

    module: str
    name: str
    arguments: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return "-".join((f"{self.module}.{self.name}", *map(str, self.arguments)))


def kernel_name(path: str, *arguments: str | int) -> KernelName:
    """kernel_name("kernels.wkv.wkv7"); kernel_name("kernels.quantized.row_kernel", "q8_0")."""
    module, _, name = path.rpartition(".")
    return KernelName(module, name, arguments)


@cache
def address(name: KernelName, cpu: Target) -> int:
    """Raises BackendError where it cannot be compiled or loaded."""
    with _turns.lock:
        image = image_name(name, cpu)
        data = kept.read(image)
        if data is None:
            begin = time.perf_counter()
            data = kernel_of(name, cpu).compiled(cpu).to_bytes()
            kept.write(image, data)
            _log.info("compiled %s in %.2f s", image, time.perf_counter() - begin)
        try:
            return Image.from_bytes(data).load()
        except OSError as error:
            raise BackendError(f"compiled code cannot run here: {error.strerror or error}; use the numpy backend") from error


def image_name(name: KernelName, cpu: Target) -> str:
    """Under which a kernel's image is kept, beside those for other instruction sets."""
    return f"{name}-{cpu.isa.name}"


def kernel_of(name: KernelName, cpu: Target) -> "Kernel":
    """Imports Numba."""
    from rwkv_edge_cpu.code.jit import Kernel

    found = getattr(import_module(f"rwkv_edge_cpu.{name.module}"), name.name)
    kernel: Kernel = found if isinstance(found, Kernel) else found(cpu, *name.arguments)
    return kernel
