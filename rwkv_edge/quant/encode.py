"""Floats to blocks: Q8_0, the format that loses almost nothing, and Q4_0; neither needs calibration."""
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.basic import LAYOUTS
from rwkv_edge.quant.formats import FORMATS

BLOCK = 32
CHUNK = 1 << 17


def encode(
    format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """float32 [rows, width] to blocks of `format`, uint8 [rows, row_bytes]."""
    if format == "q4_0":
        return encode_q4_0(weights)
    if format != "q8_0":
        raise NotImplementedError(f"no encoder for {format} yet")
    return encode_q8_0(weights)


def encode_q8_0(array: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [..., width] to Q8_0 blocks, uint8 [..., width // 32 * 34]; the same bytes as ggml's reference.

    A block's scale is its largest magnitude / 127, rounded to half precision only after the weights were divided by
    it; halves round away from zero. Raises ValueError where `width` is no multiple of 32, and for infinities, NaN and
    numbers whose scale half precision cannot hold.
    """
    return _in_blocks(array, "q8_0", _encode)


def encode_q4_0(array: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [..., width] to Q4_0 blocks, uint8 [..., width // 32 * 18]; the same bytes as ggml's reference.

    A block's scale is its number of largest magnitude / -8, so that this one has code 0. Raises ValueError as `encode_q8_0`.
    """
    return _in_blocks(array, "q4_0", _encode_q4_0)


def _in_blocks(
    array: NDArray[np.float32], format: str, encode: Callable[[NDArray[np.float32], NDArray[Any]], None]
) -> NDArray[np.uint8]:
    if array.shape[-1] % BLOCK:
        raise ValueError(f"rows of {array.shape[-1]} weights are no whole blocks of {BLOCK}, as {format} needs")
    rows = np.ascontiguousarray(array, np.float32).reshape(-1, BLOCK)
    out = np.empty(len(rows), LAYOUTS[format])
    step = CHUNK // BLOCK
    for start in range(0, len(rows), step):
        encode(rows[start : start + step], out[start : start + step])
    return out.view(np.uint8).reshape(*array.shape[:-1], FORMATS[format].row_bytes(array.shape[-1]))


def _encode_q4_0(rows: NDArray[np.float32], out: NDArray[np.void]) -> None:
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-8)
    if not (np.abs(scale) <= np.finfo(np.float16).max).all():
        raise ValueError("q4_0 cannot hold infinities, NaN or numbers beyond 524 thousand")
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    codes = np.minimum((rows * inverse + np.float32(8.5)).astype(np.int8), 15).astype(np.uint8)
    out["qs"] = codes[:, :16] | codes[:, 16:] << np.uint8(4)
    out["d"] = scale[:, 0]


def _encode(rows: NDArray[np.float32], out: NDArray[np.void]) -> None:
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    if not (scale <= np.finfo(np.float16).max).all():
        raise ValueError("q8_0 cannot hold infinities, NaN or numbers beyond 8.3 million")
    # A scale so small that its inverse overflows is zero in half precision: so are the weights.
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    scaled = rows * inverse[:, None]
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    whole += np.floor(2 * (magnitude - whole))
    out["qs"] = np.copysign(whole, scaled)
    out["d"] = scale
