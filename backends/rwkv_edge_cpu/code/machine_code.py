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

if TYPE_CHECKING:
    from rwkv_edge_cpu.code.jit import Kernel

_log = logging.getLogger("rwkv_edge.kernels")
_turns = Turns(reentrant=True)


@dataclass(frozen=True, slots=True)
class KernelName:
    """Where a `jit.Kernel` is defined, for those who must not import it: a name in one of this package's modules.

    arguments: not empty: the name is that of a function, which makes the kernel for these.
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
def address(name: KernelName) -> int:
    """Raises BackendError where it cannot be compiled or loaded."""
    with _turns.lock:
        data = kept.read(str(name))
        if data is None:
            begin = time.perf_counter()
            data = kernel_of(name).compiled().to_bytes()
            kept.write(str(name), data)
            _log.info("compiled %s in %.2f s", name, time.perf_counter() - begin)
        try:
            return Image.from_bytes(data).load()
        except OSError as error:
            raise BackendError(f"compiled code cannot run here: {error.strerror or error}; use the numpy backend") from error


def kernel_of(name: KernelName) -> "Kernel":
    """Imports Numba."""
    found = getattr(import_module(f"rwkv_edge_cpu.{name.module}"), name.name)
    kernel: Kernel = found(*name.arguments) if name.arguments else found
    return kernel
