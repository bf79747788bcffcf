"""Floats to blocks: Q8_0, the format that loses almost nothing and needs no calibration."""
import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.basic import LAYOUTS
from rwkv_edge.quant.formats import FORMATS

_Q8_0 = FORMATS["q8_0"]
CHUNK = 1 << 17


def encode(
    format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """float32 [rows, width] to blocks of `format`, uint8 [rows, row_bytes]."""
    if format != "q8_0":
        raise NotImplementedError(f"no encoder for {format} yet")
    return encode_q8_0(weights)


def encode_q8_0(array: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [..., width] to Q8_0 blocks, uint8 [..., width // 32 * 34]; the same bytes as ggml's reference.

    A block's scale is its largest magnitude / 127, rounded to half precision only after the weights were divided by
    it; halves round away from zero. Raises ValueError where `width` is no multiple of 32, and for infinities, NaN and
    numbers whose scale half precision cannot hold.
    """
    if array.shape[-1] % _Q8_0.block_size:
        raise ValueError(f"rows of {array.shape[-1]} weights are no whole blocks of {_Q8_0.block_size}, as q8_0 needs")
    rows = np.ascontiguousarray(array, np.float32).reshape(-1, _Q8_0.block_size)
    out = np.empty(len(rows), LAYOUTS["q8_0"])
    step = CHUNK // _Q8_0.block_size
    for start in range(0, len(rows), step):
        _encode(rows[start : start + step], out[start : start + step])
    return out.view(np.uint8).reshape(*array.shape[:-1], _Q8_0.row_bytes(array.shape[-1]))


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
