"""A driver without a device: memory is NumPy's, launches are noted."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rwkv_edge_device.driver import Dialect, Grid, Limits, Step


class FakeDriver:
    name = "a fake"
    dialect = Dialect("{name} {value}", "{name} {value}", "each {{", "{end} {numbers}", "case {case}", "end")

    def __init__(self, binding: int = 1 << 20) -> None:
        self.limits = Limits(binding)
        self.moved = 0
        self.allocated: list[str] = []

    def allocate(self, nbytes: int, what: str) -> NDArray[np.uint8]:
        self.allocated.append(what)
        return np.zeros(nbytes, np.uint8)

    def free(self, memory: Any) -> None:
        memory[:] = 255

    def write(self, memory: NDArray[np.uint8], offset: int, data: NDArray[Any]) -> None:
        self.moved += 1
        memory[offset : offset + data.nbytes] = data.reshape(-1).view(np.uint8)

    @contextmanager
    def filling(self, memory: NDArray[np.uint8], offset: int, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        yield memory[offset : offset + nbytes]

    def read(self, memory: NDArray[np.uint8], offset: int, out: NDArray[Any]) -> None:
        self.moved += 1
        out.reshape(-1).view(np.uint8)[:] = memory[offset : offset + out.nbytes]

    def record(self, steps: Sequence[Step], arena: Any, vectors: Any, states: Any, inputs: Any) -> Any:
        return steps

    def launch(self, recording: Any, grids: Sequence[Grid], arena: Any, offset: int, out: NDArray[np.float32]) -> None:
        out[:] = 0

    def close(self) -> None:
        """Nothing is held."""
