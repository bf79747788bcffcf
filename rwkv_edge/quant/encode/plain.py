"""Formats that need no search: plain floats, and Q8_0, which loses almost nothing."""
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.basic import LAYOUTS
from rwkv_edge.quant.unpacked import Bytes

Floats = NDArray[np.float32]


def f32(rows: Floats) -> Bytes:
    return rows.astype("<f4").view(np.uint8)


def f16(rows: Floats) -> Bytes:
    """Halves between two numbers go to the even one; infinities and NaN stay."""
    if (np.abs(rows[np.isfinite(rows)]) >= 65520).any():
        raise ValueError("f16 cannot hold numbers beyond 65504")
    return rows.astype("<f2").view(np.uint8)


def bf16(rows: Floats) -> Bytes:
    """As `f16`. The upper half of a float32, plus one where the lower half is more than a half of it, or a half of an odd one."""
    word = rows.view(np.uint32)
    rounded = (word + (np.uint32(0x7FFF) + (word >> 16 & 1))) >> 16
    out = np.where(np.isnan(rows), word >> 16 | 0x40, rounded).astype("<u2")
    return out.view(np.uint8)


def q8_0(rows: Floats) -> Bytes:
    """The same bytes as ggml's reference. A block's scale is its largest magnitude / 127, rounded to half precision only after
    the weights were divided by it; halves round away from zero.
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


PLAIN: dict[str, Callable[[Floats], Bytes]] = {"f32": f32, "f16": f16, "bf16": bf16, "q8_0": q8_0}
