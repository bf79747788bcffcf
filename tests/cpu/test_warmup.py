"""`every_kernel` is what `rwkv-edge warmup` compiles: it must not forget one."""
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import rwkv_edge_cpu
from rwkv_edge_cpu import backend
from rwkv_edge_cpu.machine_code import kernel_of
from rwkv_edge_cpu.program import every_kernel

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)

BEHIND_DECODER_OF = {"plain_kernel", "decode_kernel"}
OTHERS = {"call_kernel", "every_kernel"}  # names that end alike


def modules() -> list[ModuleType]:
    paths = Path(rwkv_edge_cpu.__file__).parent.glob("*.py")
    return [import_module(f"rwkv_edge_cpu.{path.stem}") for path in paths if path.stem != "__init__"]


def test_every_kernel_is_compiled_ahead() -> None:
    from rwkv_edge_cpu.jit import Kernel

    named = [kernel_of(name) for name in every_kernel()]
    assert all(isinstance(kernel, Kernel) for kernel in named)
    defined = {value for module in modules() for value in vars(module).values() if isinstance(value, Kernel)}
    assert {kernel.function.__qualname__ for kernel in defined - set(named)} == set()


def test_every_format_of_every_kind_of_kernel_is_compiled_ahead() -> None:
    makers = {name for module in modules() for name in vars(module) if name.endswith("_kernel")} - OTHERS
    assert makers - {name.name for name in every_kernel()} == BEHIND_DECODER_OF
