"""Weights in device layouts are the file's, number for number."""
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.device.packing import LAYOUTS, layout_of, pack
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor
from tests.ops.test_device_ops import blocks, stored


def unpacked(words: NDArray[np.uint32], tensor: Tensor, n_out: int) -> NDArray[np.float64]:
    """What a kernel makes of the words, written as plainly as can be."""
    layout, n_in = layout_of(tensor), tensor.shape[1]
    codes = words[: n_out * layout.row_words(n_in)]
    rest = words[codes.size :]
    if layout.code_bits >= 16:
        numbers: NDArray[Any] = codes.view(np.float32 if layout.code_bits == 32 else np.float16)
        if layout.brain:
            numbers = (codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return numbers.astype(np.float64).reshape(n_out, -1)[:, :n_in]
    if layout.code_bits == 8:
        values = codes.view(np.int8).astype(np.float64)
    else:
        values = (codes[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1).astype(np.float64)
    runs = values.size // layout.run
    scales = rest.view(np.float16 if layout.half else np.float32)[: runs * (2 if layout.offset else 1)].astype(np.float64)
    pairs = scales.reshape(runs, -1)
    offset = pairs[:, 1:] if layout.offset else 0
    return (values.reshape(runs, -1) * pairs[:, :1] + offset).reshape(n_out, n_in)


def test_every_format_has_a_layout() -> None:
    assert LAYOUTS.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_weights_come_back(format: str) -> None:
    width = 512 if not FORMATS[format].is_float else 45
    values = np.random.default_rng(0).standard_normal((9, width))
    tensor = stored(values, format) if FORMATS[format].is_float else blocks(format, 9, width)
    words = pack(tensor, 2, 7)
    assert words.dtype == np.uint32
    assert len(words) == layout_of(tensor).words(5, width)
    np.testing.assert_allclose(unpacked(words, tensor, 5), tensor.decode()[2:7], rtol=1e-6, atol=1e-7)


def test_matrices_larger_than_what_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = blocks("q6_k", 7, 256)
    whole = pack(tensor, 0, 7)
    monkeypatch.setattr("rwkv_edge.device.packing.ROWS_AT_ONCE", 512)
    np.testing.assert_array_equal(pack(tensor, 0, 7), whole)
