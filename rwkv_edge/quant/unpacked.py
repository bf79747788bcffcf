"""Blocks taken apart into integers and scales: what all block formats have in common, and what kernels start from."""
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """n blocks of `groups` runs of `size` weights: weight = scale * lane, plus the run's offset where there is one.

    lanes: int8 [n, groups, size].  scales, offsets: float32 [n, groups].
    """

    lanes: NDArray[np.int8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None

    def weights(self, out: NDArray[np.float32]) -> None:
        """Write the weights into `out`, float32 [n, groups * size]."""
        weights = out.reshape(self.lanes.shape)
        np.multiply(self.lanes, self.scales[..., None], out=weights)
        if self.offsets is not None:
            weights += self.offsets[..., None]


def fields(bytes: Bytes, bits: int) -> Bytes:
    """[..., m] -> [..., 8 // bits, m]: the lowest `bits` of every byte, then the next, up to the highest."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (bytes[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)


def lanes(codes: NDArray[Any], *shape: int, zero: int = 0) -> NDArray[np.int8]:
    """Codes below 128 as int8 [n, *shape] of the same order, counted from `zero`."""
    signed = codes.reshape(len(codes), *shape).view(np.int8)
    return signed - np.int8(zero) if zero else signed


def f32(column: NDArray[Any]) -> NDArray[np.float32]:
    """A field of one number per block, as float32 [n, 1]."""
    return column.astype(np.float32)[:, None]
