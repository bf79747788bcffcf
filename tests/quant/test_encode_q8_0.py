"""Q8_0 encoding gives the same bytes as ggml's reference."""
import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode import encode


def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(5).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-9, 1e-30, 1e4])
def test_blocks_are_those_of_the_reference(scale: float) -> None:
    gguf = pytest.importorskip("gguf")
    weights = normal(500, 320, scale=scale)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(encode("q8_0", weights), expected)


def test_halves_round_away_from_zero() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, :5] = [127, 0.5, -0.5, 2.5, -2.5]
    codes = encode("q8_0", weights)[0, 2:].view(np.int8)
    assert codes[:6].tolist() == [127, 1, -1, 3, -3, 0]


def test_weights_come_back_within_half_a_step() -> None:
    weights = normal(3, 5, 4096)
    step = np.abs(weights.reshape(3, 5, -1, 32)).max(axis=-1, keepdims=True) / 127
    error = np.abs(decode_blocks(encode("q8_0", weights), "q8_0") - weights).reshape(3, 5, -1, 32)
    # The scale is rounded to 11 bits, which moves the largest weight by up to 127 / 2048 of a step.
    assert (error <= step * 0.57).all()


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-39])
def test_zeros_and_the_smallest_numbers_become_zeros(tiny: float) -> None:
    weights = np.full((1, 32), tiny, np.float32)
    np.testing.assert_array_equal(decode_blocks(encode("q8_0", weights), "q8_0"), np.zeros((1, 32)))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e7])
def test_numbers_that_do_not_fit_are_refused(bad: float) -> None:
    weights = np.zeros((2, 32), np.float32)
    weights[1, 7] = bad
    with pytest.raises(ValueError, match="q8_0"):
        encode("q8_0", weights)


def test_rows_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="33 weights"):
        encode("q8_0", np.zeros((2, 33), np.float32))


def test_rows_in_any_memory_order_give_the_same_blocks() -> None:
    weights = normal(64, 96)
    np.testing.assert_array_equal(encode("q8_0", np.asfortranarray(weights)), encode("q8_0", weights))
    assert encode("q8_0", weights[:0]).shape == (0, 102)
