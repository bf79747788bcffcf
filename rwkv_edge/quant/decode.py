"""Weights from blocks to floats: the plain definition that every kernel is tested against."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant import basic, iq, k_quants
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.unpacked import Bytes, Unpacked

LAYOUTS: dict[str, np.dtype[Any]] = basic.LAYOUTS | k_quants.LAYOUTS | iq.LAYOUTS
UNPACK = basic.UNPACK | k_quants.UNPACK | iq.UNPACK

# Weights decoded at a time: the temporaries stay in a core's cache.
CHUNK = 1 << 17


def bf16_to_f32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bits to float32, exactly: bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def unpack_blocks(blocks: Bytes, format: str) -> Unpacked:
    """Integer lanes and scales of `blocks`, uint8 [n, block_bytes] with the last axis contiguous."""
    return UNPACK[format](blocks.view(LAYOUTS[format])[:, 0])


def decode_blocks(data: NDArray[Any], format: str, dtype: Any = np.float32) -> NDArray[Any]:
    """Decode a tensor's `data` (see weights.tensor.Tensor) to floats of `dtype`.

    Block formats and bf16 give float32 numbers, the same bits as ggml's reference; other dtypes are converted from
    these. A copy, except for plain floats that have `dtype` already. Beside the result, a few MB are needed.
    """
    if format in ("f32", "f16"):
        return data.astype(dtype, copy=False)
    if format == "bf16":
        return _decode_bf16(data, np.dtype(dtype))
    return _decode_quantized(data, format, np.dtype(dtype))


def _decode_bf16(data: NDArray[np.uint16], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.float32 or data.ndim == 0:
        return bf16_to_f32(data).astype(dtype, copy=False)
    out = np.empty(data.shape, dtype)
    step = max(1, CHUNK * len(data) // max(1, data.size))
    for start in range(0, len(data), step):
        out[start : start + step] = bf16_to_f32(data[start : start + step])
    return out


def _decode_quantized(data: Bytes, format: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    block = FORMATS[format]
    blocks = data.reshape(-1, block.block_bytes)
    out = np.empty((len(blocks), block.block_size), dtype)
    step = CHUNK // block.block_size
    buffer = np.empty((step, block.block_size), np.float32)
    for start in range(0, len(blocks), step):
        target = out[start : start + step]
        weights = target if dtype == np.float32 else buffer[: len(target)]
        with np.errstate(all="ignore"):  # a damaged scale gives infinities and NaN, as in ggml
            unpack_blocks(blocks[start : start + step], format).weights(weights)
        if weights is not target:
            target[...] = weights
    return out.reshape(*data.shape[:-1], data.shape[-1] // block.block_bytes * block.block_size)
