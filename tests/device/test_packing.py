"""Weights in device layouts are the file's, number for number."""
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_device.packing import LAYOUTS, layout_of, pack

from rwkv_edge.quant.decode import LAYOUTS as BLOCK_LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor
from tests.ops.test_ops import blocks, stored


def unpacked(words: NDArray[np.uint32], tensor: Tensor, n_out: int) -> NDArray[np.float64]:
    """What a kernel makes of the words, written as plainly as can be."""
    layout, n_in = layout_of(tensor), tensor.shape[1]
    codes, rest = np.split(words, [layout.code_words(n_out, n_in)])
    if layout.code_bits >= 16:
        numbers: NDArray[Any] = codes.view(np.float32 if layout.code_bits == 32 else np.float16)
        if layout.brain:
            numbers = (codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return numbers.astype(np.float64).reshape(n_out, -1)[:, :n_in]
    values = integers(codes, layout.code_bits).reshape(n_out, n_in) - layout.zero
    several, runs = 2 if layout.offset else 1, n_out * n_in // layout.run
    if layout.block:
        small, factors = rest.view(np.int8)[: several * runs], rest[several * runs // 4 :].view(np.float32)
        factors = factors[: several * n_out * n_in // layout.block].reshape(-1, several)
        scales = small.reshape(-1, several) * np.repeat(factors, layout.block // layout.run, axis=0)
    else:
        scales = rest.view(np.float16)[: several * runs].reshape(-1, several)
    wide = np.repeat(scales.astype(np.float64), layout.run, axis=0).reshape(n_out, n_in, several)
    return values * wide[..., 0] + (wide[..., 1] if layout.offset else 0)


def integers(codes: NDArray[np.uint32], bits: int) -> NDArray[np.float64]:
    if bits == 8:
        return codes.view(np.int8).astype(np.float64)
    low, high = np.split(codes, [codes.size * 4 // bits])
    values = (low[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1)
    for i in range(values.size if bits > 4 else 0):
        unit, code = divmod(i, 8)
        share = 4 // (bits - 4)
        byte = int(high[unit // share]) >> 8 * (code // 2)
        upper = byte >> (bits - 4) * (2 * (unit % share) + code % 2) & (1 << bits - 4) - 1
        values[i] |= upper << 4
    return values.astype(np.float64)


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


SCALES = [(format, name) for format, dtype in BLOCK_LAYOUTS.items() for name in {"d", "dmin", "m"} & set(dtype.names or ())]


@pytest.mark.parametrize(("format", "field"), sorted(SCALES))
@pytest.mark.filterwarnings("error")
def test_damaged_scales(format: str, field: str) -> None:
    """Are no more than numbers: without a warning, what is finite in the file is the same here, and nothing else is finite."""
    tensor = blocks(format, 6, 512)
    tensor = Tensor(tensor.name, tensor.shape, format, tensor.data.copy())
    fields = tensor.data.reshape(-1, FORMATS[format].block_bytes).view(BLOCK_LAYOUTS[format])[:, 0]
    first_blocks = fields[:: len(fields) // 6]
    first_blocks[field] = 0, np.inf, -np.inf, np.nan, 6e-8, -1e-4
    expected, words = tensor.decode(), pack(tensor, 0, 6)
    with np.errstate(all="ignore"):
        actual = unpacked(words, tensor, 6)
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
    np.testing.assert_allclose(actual[np.isfinite(actual)], expected[np.isfinite(expected)], rtol=1e-6, atol=1e-7)


def test_matrices_larger_than_what_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = blocks("q6_k", 7, 256)
    whole = pack(tensor, 0, 7)
    monkeypatch.setattr("rwkv_edge_device.packing.ROWS_AT_ONCE", 512)
    np.testing.assert_array_equal(pack(tensor, 0, 7), whole)
