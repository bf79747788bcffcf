"""ggml's own encoders, which the llama-cpp-python wheel contains."""
import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.formats import FORMATS

NEEDS_IMPORTANCE = ("iq3_xxs",)


def available() -> bool:
    return find_spec("llama_cpp") is not None


@cache
def _library() -> Any:
    import llama_cpp

    found = next(Path(llama_cpp.__file__).parent.joinpath("lib").glob("*ggml-base*"))
    quantize = ctypes.CDLL(str(found)).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return quantize


def encode(
    format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """float32 [rows, width] to uint8 [rows, bytes a row]. Without importance it weights the errors in its own way."""
    rows, width = weights.shape
    weights = np.ascontiguousarray(weights)
    out = np.empty((rows, FORMATS[format].row_bytes(width)), np.uint8)
    if importance is None and format in NEEDS_IMPORTANCE:
        importance = np.ones(width, np.float32)
    address = None if importance is None else importance.ctypes.data
    _library()(FORMATS[format].ggml_type, weights.ctypes.data, out.ctypes.data, 0, rows, width, address)
    return out
