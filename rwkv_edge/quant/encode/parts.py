"""A block taken apart as encoders find it: what `pack` puts together, and what a search for codes returns."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode.schemes import Scheme


@dataclass(frozen=True, slots=True)
class Parts:
    """n blocks; see `schemes` for what the numbers mean.

    codes: uint8 [n, block_size], counted from the scheme's lowest code, or an index where it has levels;
           with a grid: uint16 [n, block_size // 4], rows of the grid.
    d, dmin: float32 [n], whole halves.  s: int16 [n, groups].  m: uint8 [n, groups].
    signs: uint8 [n, block_size // 8], with a grid: a bit of each weight, 1 for minus.
    dmin, m and signs are of no meaning to formats that have none.
    """

    codes: NDArray[np.uint8] | NDArray[np.uint16]
    d: NDArray[np.float32]
    s: NDArray[np.int16]
    dmin: NDArray[np.float32]
    m: NDArray[np.uint8]
    signs: NDArray[np.uint8]

    @staticmethod
    def empty(scheme: Scheme, n: int) -> "Parts":
        gridded = scheme.grid is not None
        return Parts(
            codes=np.empty((n, scheme.block_size // 4), np.uint16) if gridded else np.empty((n, scheme.block_size), np.uint8),
            d=np.empty(n, np.float32),
            s=np.empty((n, scheme.groups), np.int16),
            dmin=np.empty(n, np.float32),
            m=np.empty((n, scheme.groups), np.uint8),
            signs=np.empty((n, scheme.block_size // 8), np.uint8),
        )


# search(scheme, x, w) for x: float32 [n, block_size], and w [k, block_size]: the weight of the squared error in block i is
# w[i % k], n is a multiple of k. All arrays have their elements one behind the other.
Search = Callable[[Scheme, NDArray[np.float32], NDArray[np.float32]], Parts]
