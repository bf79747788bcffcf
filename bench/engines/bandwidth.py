"""No engine: reads a buffer far larger than the cache, the measure of what an engine can reach in decode."""
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

TITLE = "read loop"
MEGABYTES = 512
PASSES = 5


def missing(path: Path) -> str | None:
    return None


def load() -> None:
    """Nothing: numba is imported with the loop."""


def compiled_sum() -> Callable[[NDArray[np.int64]], Any]:
    """A sum without the GIL; NumPy's, which is slower, where there is no numba."""
    try:
        from numba import njit
    except ImportError:
        return np.sum

    def total(buffer: NDArray[np.int64]) -> int:
        sums = 0
        for i in range(len(buffer)):
            sums += buffer[i]
        return sums

    compiled: Callable[[NDArray[np.int64]], Any] = njit("int64(int64[::1])", nogil=True)(total)
    return compiled


class Session:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        self.total = compiled_sum()
        self.buffer = np.ones(MEGABYTES << 17, np.int64)

    def read(self, threads: int) -> float:
        """GB/s of `threads` threads that sum a part each: the median of a few passes."""
        parts = [np.ascontiguousarray(part) for part in np.array_split(self.buffer, threads)]
        seconds = []
        for _ in range(PASSES):
            workers = [threading.Thread(target=self.total, args=(part,)) for part in parts]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            seconds.append(time.perf_counter() - start)
        return self.buffer.nbytes / median(seconds) / 1e9
