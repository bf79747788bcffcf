"""Q8_0, the format that loses almost nothing, needs no search."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.basic import LAYOUTS
from rwkv_edge.quant.unpacked import Bytes


def encode_q8_0(rows: NDArray[np.float32]) -> Bytes:
    """float32 [n, width] to bytes [n, width // 32 * 34], the same as ggml's reference.

    A block's scale is its largest magnitude / 127, rounded to half precision only after the weights were divided by it; halves
    round away from zero. Raises ValueError for infinities, NaN and numbers whose scale half precision cannot hold.
    """
    blocks = rows.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, initial=0) / np.float32(127)
    if not (scale < np.float32(65520)).all():
        raise ValueError("q8_0 cannot hold infinities, NaN or numbers beyond 8.3 million")
    # A scale so small that its inverse overflows is zero in half precision: so are the weights.
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    scaled = blocks * inverse[:, None]
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    whole += np.floor(2 * (magnitude - whole))
    out: NDArray[Any] = np.empty(len(blocks), LAYOUTS["q8_0"])
    out["qs"] = np.copysign(whole, scaled)
    out["d"] = scale
    return out.view(np.uint8).reshape(len(rows), -1)
