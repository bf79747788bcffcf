"""The CPU backend: a Plan runs inside one compiled call per step, on a few threads. Importing this does not load Numba."""
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.backend import DEFAULT_OPTIONS, Availability, CompileOptions, Device, Executable, Traits
from rwkv_edge.errors import BackendError
from rwkv_edge.machine.cpu import cpu_name
from rwkv_edge.machine.memory import total_memory
from rwkv_edge.machine.user_cache import OVERRIDE
from rwkv_edge.plan import Embed, Input, MatMul, Op, Plan
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu.run.cores import usable_cores


class CpuBackend:
    name = "cpu"
    traits = Traits(rank=10)

    def availability(self) -> Availability:
        if sys.maxsize <= 2**32:
            return Availability(False, "Numba has no 32-bit version; use a 64-bit system and Python")
        missing = [name for name in ("numba", "llvmlite") if find_spec(name) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            return Availability(False, f"{' and '.join(missing)} {are} not installed: pip install numba")
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return Availability(False, "NUMBA_DISABLE_JIT is set: unset NUMBA_DISABLE_JIT")
        return Availability(True)

    def devices(self) -> list[Device]:
        threads = usable_cores()
        return [Device(f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}", "cpu", total_memory())]

    def supports(self, op: Op) -> bool:
        from rwkv_edge_cpu.run.lowering import LOWERINGS

        if isinstance(op, MatMul | Embed):
            return op.weight.format in FORMATS
        return isinstance(op, Input) or type(op) in LOWERINGS

    def compile(self, plan: Plan, options: CompileOptions = DEFAULT_OPTIONS) -> Executable:
        """precision: None or "fp32".  threads: None: the performance cores that this process may use.

        The first call on a machine compiles the kernels that the plan needs (seconds); later processes load them from a cache.
        Raises BackendError for a precision or a weight format that there is no kernel for.
        """
        if options.precision not in (None, "fp32"):
            raise BackendError(f"the cpu backend computes in fp32, not in {options.precision}; the numpy backend offers fp64")
        if options.threads is not None and options.threads < 1:
            raise BackendError(f"threads must be at least 1, got {options.threads}")
        from rwkv_edge_cpu.code.target import chosen
        from rwkv_edge_cpu.run.executable import CpuExecutable

        with numba_needed():
            threads = usable_cores() if options.threads is None else options.threads
            return CpuExecutable(plan, chosen(), threads, options.sparse)

    def compile_beside(self, plan: Plan, other: Executable | None, options: CompileOptions) -> Executable:
        """See `rwkv_edge.backend.ReadsInPlace`."""
        from rwkv_edge_cpu.code.target import chosen
        from rwkv_edge_cpu.run.executable import CpuExecutable

        if not isinstance(other, CpuExecutable):
            return self.compile(plan, replace(options, sparse=False))
        with numba_needed():
            return CpuExecutable(plan, chosen(), 0, sparse=False, beside=other)

    def warm_up(self) -> None:
        """See `rwkv_edge.backend.CompilesAhead`. Raises BackendError where nothing can be kept."""
        from rwkv_edge_cpu.code import kept
        from rwkv_edge_cpu.code.machine_code import address
        from rwkv_edge_cpu.code.target import chosen
        from rwkv_edge_cpu.run.records import every_kernel

        if kept.directory() is None:
            raise BackendError(f"no directory for compiled code can be written; name one with {OVERRIDE}")
        with numba_needed():
            cpu = chosen()
            for name in every_kernel():
                address(name, cpu)

    def encode(
        self, format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """As `rwkv_edge.quant.encode.encode`, the same bytes, compiled. The first call on a machine compiles (seconds)."""
        from rwkv_edge_cpu.code.target import chosen
        from rwkv_edge_cpu.encode.encoder import encode

        with numba_needed():
            return encode(chosen(), format, weights, importance)


@contextmanager
def numba_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:  # installed, but for another Python or NumPy
        raise BackendError(f"Numba cannot be loaded ({error}); repair it, or use the numpy backend") from error


backend = CpuBackend()
