"""Memory that begins at a cache line."""
import numpy as np
from numpy.typing import NDArray

CACHE_LINE = 64


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised memory that begins at a cache line."""
    raw = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -int(raw.__array_interface__["data"][0]) % CACHE_LINE
    return raw[start : start + nbytes]
