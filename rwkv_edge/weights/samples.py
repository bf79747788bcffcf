"""Matrices of random weights, for tests of devices and measurements: made in a format's own bytes, without an encoder."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor


def random_matrix(rng: np.random.Generator, format: str, n_out: int, n_in: int) -> Tensor:
    """[n_out, n_in], whose products are of about the size of their inputs for an n_in of some hundreds."""
    block = FORMATS[format]
    if block.is_float:
        values = (rng.standard_normal((n_out, n_in)) / 16).astype(np.float32)
        bits = values.view(np.uint32) >> 16
        data: dict[str, NDArray[Any]] = {"f32": values, "f16": values.astype(np.float16), "bf16": bits.astype(np.uint16)}
        return Tensor("w", values.shape, format, data[format])
    raw = rng.integers(0, 256, (n_out * n_in // block.block_size, block.block_bytes), np.uint8)
    fields = raw.view(LAYOUTS[format])[:, 0]
    for name in {"d", "dmin", "m"} & set(fields.dtype.names or ()):
        fields[name] = rng.uniform(1e-4, 2e-4, len(fields))
    return Tensor("w", (n_out, n_in), format, raw.reshape(n_out, -1))
