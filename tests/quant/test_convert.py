"""Matrices in the format that a strategy asks for."""
import numpy as np
import pytest

from rwkv_edge.quant.convert import converted
from rwkv_edge.weights.tensor import Tensor


def matrix(name: str, width: int = 64, largest: float = 1.0) -> Tensor:
    values = np.random.default_rng(0).uniform(-largest, largest, (8, width)).astype(np.float32)
    return Tensor(name, values.shape, "f32", values)


@pytest.mark.parametrize(("format", "error"), [("f32", 0), ("f16", 5e-4), ("q8_0", 5e-3), ("q4_0", 0.13)])
def test_numbers_stay_near(format: str, error: float) -> None:
    tensor = matrix("blocks.0.att.key.weight")
    result = converted(tensor, format)
    assert result.format == format
    assert result.shape == tensor.shape
    assert np.abs(result.decode() - tensor.data).max() <= error


def test_a_matrix_in_that_format_is_not_touched() -> None:
    tensor = converted(matrix("head.weight"), "q8_0")
    assert converted(tensor, "q8_0") is tensor


@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
def test_low_rank_maps_and_odd_rows_stay_as_stored(format: str) -> None:
    assert converted(matrix("blocks.0.att.w1"), format).format == "f32"
    assert converted(matrix("blocks.0.ffn.key.weight", width=48), format).format == "f32"


def test_head_and_embedding_keep_eight_bits() -> None:
    assert {converted(matrix(name), "q4_0").format for name in ("head.weight", "emb.weight")} == {"q8_0"}


def test_numbers_beyond_half_precision_stay_whole() -> None:
    tensor = matrix("head.weight", largest=1e6)
    assert converted(tensor, "f16").format == "f32"
