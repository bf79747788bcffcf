"""Floats to any weight format: `encode`."""
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.encode.pack import PACK
from rwkv_edge.quant.encode.parts import Search
from rwkv_edge.quant.encode.plain import PLAIN
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.quant.encode.search import search as numpy_search
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.unpacked import Bytes

Floats = NDArray[np.float32]
CHUNK = 1 << 16  # weights at a time: the temporaries stay in a core's cache
LEAST_IMPORTANCE = 1e-4  # of the mean: weights that calibration never used stay near what they were


def encode(format: str, weights: Floats, importance: Floats | None = None) -> Bytes:
    """float32 [..., width] to blocks or floats of `format`, uint8 [..., bytes per row].

    importance: float32 [width], >= 0: how much the squared error of a column counts (the mean square of what it is multiplied
    with); None: all the same. Plain floats and q8_0 are rounded, whatever it is.
    Raises ValueError: an unknown format, a width that is no multiple of the block, in block formats infinities, NaN and numbers
    that are too large, importance of another width or not finite or negative.
    """
    return encode_with(numpy_search, format, weights, importance)


def encode_with(
    search: Search,
    format: str,
    weights: Floats,
    importance: Floats | None = None,
    spread: Callable[[Callable[[int], None], Iterable[int]], Iterable[None]] = map,
) -> Bytes:
    """`encode` by this search. spread: as `map`, but may call the function on several threads at once."""
    if format not in FORMATS:
        raise ValueError(f"no weight format is called {format!r}; there are: {', '.join(FORMATS)}")
    size, width = FORMATS[format], weights.shape[-1]
    if width % size.block_size:
        raise ValueError(f"rows of {width} weights are no whole blocks of {size.block_size}, as {format} needs")
    columns = _importance(importance, width)
    rows = weights.reshape(-1, width)
    out = np.empty((len(rows), size.row_bytes(width)), np.uint8)
    step = max(1, CHUNK // max(1, width))

    def encode_rows(begin: int) -> None:
        chunk = np.ascontiguousarray(rows[begin : begin + step], np.float32)
        target = out[begin : begin + step]
        target[...] = PLAIN[format](chunk) if format in PLAIN else _blocks(search, format, chunk, columns)

    for _ in spread(encode_rows, range(0, len(rows) if width else 0, step)):
        pass
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
