"""The NumPy backend: the definition of every op, always available, in float32 or (for goldens) float64."""
from typing import Any

import numpy as np

from rwkv_edge.backend import DEFAULT_OPTIONS, Availability, CompileOptions, Device, Executable, Traits
from rwkv_edge.machine.cpu import cpu_name
from rwkv_edge.machine.memory import total_memory
from rwkv_edge.plan import Op, Plan
from rwkv_edge_numpy.executable import NumpyExecutable

PRECISIONS: dict[str | None, type[np.floating[Any]]] = {None: np.float32, "fp32": np.float32, "fp64": np.float64}


class NumpyBackend:
    name = "numpy"
    traits = Traits(last_resort=True, precisions=("fp32", "fp64"), stands_in_for=("cpu",), definition=True)

    def availability(self) -> Availability:
        return Availability(True)

    def devices(self) -> list[Device]:
        return [Device(f"{cpu_name()}, NumPy {np.__version__}", "cpu", total_memory())]

    def supports(self, op: Op) -> bool:
        return isinstance(op, Op)

    def compile(self, plan: Plan, options: CompileOptions = DEFAULT_OPTIONS) -> Executable:
        """`threads` is NumPy's own business (its BLAS decides) and ignored, as is `sparse`: every product is whole."""
        return NumpyExecutable(plan, PRECISIONS[options.precision])

    def compile_beside(self, plan: Plan, other: Executable | None, options: CompileOptions) -> Executable:
        """See `rwkv_edge.backend.ReadsInPlace`. Nothing is held between runs that could be shared."""
        return self.compile(plan, options)


backend = NumpyBackend()
