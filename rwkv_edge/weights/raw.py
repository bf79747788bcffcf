"""What every reader returns: a file's tensors under the file's own names, before anyone knows which model they make."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

MAX_AXES = 8
MAX_ELEMENTS = 1 << 48  # of the axes that are not 0: numpy cannot express much more, even for a tensor without elements


@dataclass(frozen=True)
class RawFile:
    """A file that was opened but not yet understood.

    source: "pth", "safetensors", "gguf" or "rwkv.cpp".
    tensors: file name of the tensor -> Tensor, each a read-only view of the memory-mapped file, in file order.
    metadata: what else the file (and a config.json beside it) says, plain Python values.

    Guaranteed of every tensor: little-endian data; every element lies inside the file; no two tensors of one file
    overlap unless the file shares a storage between them on purpose (.pth). NOT guaranteed: alignment. A tensor may
    start at any byte (`tensor.data.flags.aligned` tells); numpy copes, code that takes addresses must use unaligned
    loads or copy first.
    """

    path: Path
    source: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


def shape_problem(shape: object) -> str | None:
    """Why `shape` cannot be that of a tensor ("has ..."), or None when it can."""
    if not isinstance(shape, list | tuple):
        return "has no shape"
    if len(shape) > MAX_AXES:
        return f"has {len(shape)} axes, expected at most {MAX_AXES}"
    if not all(type(n) is int and n >= 0 for n in shape):
        return "has a shape that is not a list of sizes"
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        return f"has an impossible shape {list(shape)}"
    return None


def float_tensor(name: str, format: str, shape: tuple[int, ...], data: NDArray[np.uint8]) -> Tensor:
    """A row-major tensor of plain floats over exactly its bytes; `format` is a key of FLOAT_STORAGE. A view."""
    return Tensor(name, shape, format, data.view(FLOAT_STORAGE[format]).reshape(shape))
