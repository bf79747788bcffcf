"""`every_kernel` is what `rwkv-edge warmup` compiles: it must not forget one."""
import pkgutil
from importlib import import_module
from types import ModuleType

import pytest
import rwkv_edge_cpu
from rwkv_edge_cpu import backend
from rwkv_edge_cpu.code.machine_code import kernel_of
from rwkv_edge_cpu.code.target import chosen
from rwkv_edge_cpu.run.records import every_kernel

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)

BEHIND_DECODER_OF = {"plain_kernel", "decode_kernel"}


def modules() -> list[ModuleType]:
    """All of the package but those that say how a kernel is defined."""
    found = pkgutil.walk_packages(rwkv_edge_cpu.__path__, "rwkv_edge_cpu.")
    return [import_module(module.name) for module in found if not module.name.startswith("rwkv_edge_cpu.code")]


def test_every_kernel_is_compiled_ahead() -> None:
    from rwkv_edge_cpu.code.jit import Kernel

    named = [kernel_of(name, chosen()) for name in every_kernel()]
    assert all(isinstance(kernel, Kernel) for kernel in named)
    defined = {value for module in modules() for value in vars(module).values() if isinstance(value, Kernel)}
    assert {kernel.function.__qualname__ for kernel in defined - set(named)} == set()


def test_everything_that_makes_kernels_is_asked_ahead() -> None:
    from rwkv_edge_cpu.code.jit import Kernel

    functions = [f for module in modules() for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__]
    makers = {f.__name__ for f in functions if getattr(f, "__annotations__", {}).get("return") is Kernel}
    assert makers - {name.name for name in every_kernel()} == BEHIND_DECODER_OF
