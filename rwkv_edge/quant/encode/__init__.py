"""Floats to blocks of any format: `encode`. It is the definition; a backend may have a faster one (see `auto.encoder`)."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.encode.pack import PACK
from rwkv_edge.quant.encode.parts import Search
from rwkv_edge.quant.encode.q8_0 import encode_q8_0
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.quant.encode.search import search as numpy_search
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.unpacked import Bytes

Floats = NDArray[np.float32]
CHUNK = 1 << 16  # weights at a time: the temporaries stay in a core's cache
LEAST_IMPORTANCE = 1e-4  # of the mean: columns that calibration never saw keep their weights roughly


def encode(format: str, weights: Floats, importance: Floats | None = None) -> Bytes:
    """float32 [..., width] to blocks of `format`, uint8 [..., bytes per row]. Any threads may call it at once.

    importance: float32 [width], >= 0: how much the squared error of a column counts (the mean square of what it is multiplied
    with); None: all the same. Q8_0 is rounded, whatever it is.
    Raises ValueError: no such block format, a width that is no multiple of the block, infinities, NaN and numbers that are too
    large, importance of another width, not finite or negative.
    """
    return encode_with(numpy_search, format, weights, importance)


def encode_with(search: Search, format: str, weights: Floats, importance: Floats | None = None) -> Bytes:
    """`encode` by this search."""
    if format != "q8_0" and format not in SCHEMES:
        raise ValueError(f"no block format is called {format!r}; there are: q8_0, {', '.join(SCHEMES)}")
    size, width = FORMATS[format], weights.shape[-1]
    if width % size.block_size:
        raise ValueError(f"rows of {width} weights are no whole blocks of {size.block_size}, as {format} needs")
    columns = _importance(importance, width)
    rows = weights.reshape(-1, width) if weights.size else np.empty((0, width), np.float32)
    out = np.empty((len(rows), size.row_bytes(width)), np.uint8)
    step = max(1, CHUNK // max(1, width))
    for begin in range(0, len(rows), step):
        chunk = np.ascontiguousarray(rows[begin : begin + step], np.float32)
        out[begin : begin + step] = encode_q8_0(chunk) if format == "q8_0" else _blocks(search, format, chunk, columns)
    return out.reshape(*weights.shape[:-1], size.row_bytes(width))


def _blocks(search: Search, format: str, rows: Floats, columns: Floats) -> Bytes:
    scheme = SCHEMES[format]
    if not (max(rows.max(), -rows.min()) <= scheme.largest):
        raise ValueError(f"{format} cannot hold infinities, NaN or numbers beyond {scheme.largest:.3g}")
    parts = search(scheme, rows.reshape(-1, scheme.block_size), columns.reshape(-1, scheme.block_size))
    blocks: NDArray[Any] = np.empty(len(parts.d), LAYOUTS[format])
    PACK[format](parts, blocks)
    return blocks.view(np.uint8).reshape(len(rows), -1)


def _importance(importance: Floats | None, width: int) -> Floats:
    """[width], 1 on the average."""
    if importance is None:
        return np.ones(width, np.float32)
    if importance.shape != (width,):
        raise ValueError(f"importance of shape {importance.shape} for rows of {width} weights")
    mean = importance.mean(dtype=np.float64) if width else 1.0
    if not (np.isfinite(mean) and (importance >= 0).all()):
        raise ValueError("importance must be finite and not negative")
    if mean == 0:
        return np.ones(width, np.float32)
    return np.maximum(importance / mean, LEAST_IMPORTANCE).astype(np.float32)
