"""Matrices in another format than the file's, where a strategy asks for one."""
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode import encode
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor

Encode = Callable[[str, NDArray[np.float32]], NDArray[Any]]
ALWAYS_EIGHT_BITS = ("emb.weight", "head.weight")  # four bits cost most in these


def converted(tensor: Tensor, format: str, encode: Encode = encode) -> Tensor:
    """The matrix in `format`: "f32", "f16", "q8_0" or "q4_0", with all numbers that it can hold. encode: a faster encoder.

    f16: a matrix with numbers beyond its range becomes f32. q8_0, q4_0: low-rank maps (no name in ".weight": errors in them
    reach the state), and rows that are not whole blocks or not finite, stay as stored; under q4_0 the embedding and the head
    become q8_0.
    """
    if format == tensor.format:
        return tensor
    if format == "f32":
        return replace(tensor, format="f32", data=tensor.decode())
    if format == "f16":
        with np.errstate(over="ignore"):
            data = tensor.decode(np.float16)
        return replace(tensor, format="f16", data=data) if np.isfinite(data).all() else converted(tensor, "f32")
    if not tensor.name.endswith(".weight") or tensor.shape[-1] % FORMATS[format].block_size:
        return tensor
    if format == "q4_0" and tensor.name in ALWAYS_EIGHT_BITS:
        return converted(tensor, "q8_0", encode)
    try:
        return replace(tensor, format=format, data=encode(format, tensor.decode()))
    except ValueError:  # infinities, NaN: no scale holds them
        return tensor
