"""The CPU backend: a Plan runs inside one compiled call per step, on a few threads. Importing this does not load Numba."""
import os
import sys
from importlib.util import find_spec

from rwkv_edge.backend import Availability, Executable
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Plan
from rwkv_edge.quant.formats import FORMATS


class CpuBackend:
    name = "cpu"

    def availability(self) -> Availability:
        if sys.maxsize <= 2**32:
            return Availability(False, "Numba has no 32-bit version; use a 64-bit system and Python, or the numpy backend.")
        missing = [name for name in ("numba", "llvmlite") if find_spec(name) is None]
        if missing:
            return Availability(False, f"{' and '.join(missing)} is not installed: pip install numba")
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return Availability(False, "NUMBA_DISABLE_JIT is set: unset NUMBA_DISABLE_JIT")
        return Availability(True)

    def supports(self, format: str) -> bool:
        return format in FORMATS

    def compile(
        self, plan: Plan, *, precision: str | None = None, threads: int | None = None, sparse: bool | None = None
    ) -> Executable:
        """precision: None or "fp32".  threads: how many work on a step; None: as many as there are CPUs for this process.
        sparse: see `rwkv_edge.backend.Backend`.

        The first call on a machine compiles the kernels that the plan needs (seconds); later processes load them from a cache.
        Raises BackendError for a precision or a weight format that there is no kernel for.
        """
        if precision not in (None, "fp32"):
            raise BackendError(f"the cpu backend computes in fp32, not in {precision}; the numpy backend offers fp64")
        if threads is not None and threads < 1:
            raise BackendError(f"threads must be at least 1, got {threads}")
        try:
            from rwkv_edge_cpu.executable import CpuExecutable
        except ImportError as error:  # installed, but for another Python or NumPy
            raise BackendError(f"Numba cannot be loaded ({error}); repair it, or use the numpy backend") from error
        return CpuExecutable(plan, usable_cpus() if threads is None else threads, sparse)


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity mask where the system has one, else all."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


backend = CpuBackend()
