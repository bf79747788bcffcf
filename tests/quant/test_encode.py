"""Encoders: no less accurate than the reference's, and sane on blocks that are not like weights."""
import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode import encode
from rwkv_edge.quant.encode.arithmetic import half
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.quant.formats import FORMATS
from tests.quant.blocks import HOSTILE, Floats, heavy, importance, normal

FORMATS_IN_BLOCKS = ("q8_0", *SCHEMES)

# Root mean squared errors of ggml's encoders (ggml_quantize_chunk of llama-cpp-python 0.3.36) on normal(32, 1024) and
# heavy(32, 1024), each without importance (of ones for iq3_*, which need one) and with importance(1024), by which the
# squared errors are then weighted. `python -m bench.encode` compares on more.
REFERENCE = {
    "q8_0": (0.00536, 0.00538, 0.01338, 0.01339),
    "q4_0": (0.08608, 0.07835, 0.19334, 0.18154),
    "q4_1": (0.07841, 0.06452, 0.17900, 0.14378),
    "q5_0": (0.04290, 0.03877, 0.10027, 0.09500),
    "q5_1": (0.03796, 0.03142, 0.08634, 0.07112),
    "q2_k": (0.29446, 0.23937, 0.65905, 0.46200),
    "q3_k": (0.15130, 0.13603, 0.29885, 0.27388),
    "q4_k": (0.07149, 0.06563, 0.15948, 0.14695),
    "q5_k": (0.03616, 0.03348, 0.08244, 0.07676),
    "q6_k": (0.01776, 0.01633, 0.04143, 0.03925),
    "iq4_nl": (0.07636, 0.07126, 0.15865, 0.14804),
    "iq4_xs": (0.07689, 0.07201, 0.16013, 0.14992),
    "iq3_xxs": (0.18146, 0.15045, 0.39471, 0.34686),
    "iq3_s": (0.13625, 0.11909, 0.32785, 0.30028),
}


def error(x: Floats, format: str, columns: Floats | None = None) -> float:
    """Root mean square, weighted by `columns`, of encoding by them."""
    miss = (decode_blocks(encode(format, x, columns), format).astype(np.float64) - x) ** 2
    return float(np.sqrt((miss if columns is None else miss * columns / columns.mean(dtype=np.float64)).mean()))


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
def test_no_less_accurate_than_the_reference(format: str) -> None:
    columns = importance(1024)
    found = [error(x, format, w) for x in (normal(32, 1024), heavy(32, 1024)) for w in (None, columns)]
    limit = 1.001 if format == "q8_0" else 0.99  # q8_0 is the same; the others have a margin
    assert (np.array(found) <= np.array(REFERENCE[format]) * limit).all(), found


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blocks_come_back_as_near_as_the_codes_allow(name: str, format: str) -> None:
    x = HOSTILE[name]
    back = decode_blocks(encode(format, x), format)
    assert np.isfinite(back).all()
    blocks, found = x.reshape(-1, FORMATS[format].block_size), back.reshape(-1, FORMATS[format].block_size)
    energy = np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=1))
    miss = np.sqrt(((found.astype(np.float64) - blocks) ** 2).mean(axis=1))
    # Of three bits no more can be expected; and of scales near the least half, which q8_0 rounds to 0 as the reference does.
    smallest = 4e-6 if format == "q8_0" else 1e-6
    assert (miss <= 0.5 * energy + smallest).all(), (miss / (energy + 1e-30)).max()


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
def test_zeros_are_zeros_without_a_sign(format: str) -> None:
    for name in ("zeros", "minus zeros"):
        encoded = encode(format, HOSTILE[name])
        assert not decode_blocks(encoded, format).any()
    assert (encode(format, HOSTILE["zeros"]) == encode(format, HOSTILE["zeros"])[:1]).all()


@pytest.mark.parametrize("format", ["q4_0", "q5_0", "q8_0", "iq4_nl", "q4_1", "q5_1"])
def test_decoded_blocks_of_32_are_encoded_without_loss(format: str) -> None:
    once = decode_blocks(encode(format, normal(64, 512)), format)
    again = decode_blocks(encode(format, once), format)
    assert np.abs(again - once).max() <= np.abs(once).max() * 2e-3
    assert (again == once).mean() > 0.9


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
def test_rows_are_encoded_by_themselves_in_any_memory_order(format: str) -> None:
    x, columns = normal(6, 512), importance(512)
    whole = encode(format, x, columns)
    assert whole.shape == (6, FORMATS[format].row_bytes(512))
    np.testing.assert_array_equal(encode(format, np.asfortranarray(x), columns), whole)
    np.testing.assert_array_equal(encode(format, x.reshape(2, 3, 512), columns), whole.reshape(2, 3, -1))
    np.testing.assert_array_equal(encode(format, x[4], columns), whole[4])
    assert encode(format, x[:0]).shape == (0, whole.shape[1])


def test_many_rows_are_encoded_in_pieces() -> None:
    x = normal(300, 1024)
    np.testing.assert_array_equal(encode("q4_0", x)[200:], encode("q4_0", x[200:]))


@pytest.mark.parametrize("format", list(SCHEMES))
def test_columns_that_count_more_come_back_better(format: str) -> None:
    x, columns = normal(16, 512), np.where(np.arange(512) % 4, 0.05, 10).astype(np.float32)
    plain, weighted = decode_blocks(encode(format, x), format), decode_blocks(encode(format, x, columns), format)
    important = columns > 1
    assert ((weighted - x)[:, important] ** 2).mean() < 0.95 * ((plain - x)[:, important] ** 2).mean()


@pytest.mark.parametrize("format", list(SCHEMES))
def test_only_ratios_of_importance_matter_and_columns_of_none_are_kept_roughly(format: str) -> None:
    x, columns = normal(4, 512), importance(512)
    np.testing.assert_array_equal(encode(format, x, columns * 1024), encode(format, x, columns))
    np.testing.assert_array_equal(encode(format, x, np.zeros(512, np.float32)), encode(format, x))
    columns[::2] = 0
    back = decode_blocks(encode(format, x, columns), format)
    assert np.sqrt(((back - x) ** 2).mean()) < 0.6


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e12, -1e12])
def test_numbers_that_do_not_fit_are_refused(bad: float, format: str) -> None:
    x = np.zeros((2, 512), np.float32)
    x[1, 7] = bad
    with pytest.raises(ValueError, match=format):
        encode(format, x)


@pytest.mark.parametrize("format", list(SCHEMES))
def test_the_largest_numbers_that_fit_come_back(format: str) -> None:
    x = normal(2, 512)
    x *= np.float32(0.9 * SCHEMES[format].largest) / np.abs(x).max()
    back = decode_blocks(encode(format, x), format)
    assert np.isfinite(back).all()
    assert np.sqrt(((back - x) ** 2).mean()) < 0.6 * np.sqrt((x**2).mean())


@pytest.mark.parametrize("format", FORMATS_IN_BLOCKS)
def test_rows_must_be_whole_blocks(format: str) -> None:
    with pytest.raises(ValueError, match="33 weights"):
        encode(format, np.zeros((2, 33), np.float32))


def test_unknown_formats_and_unusable_importance_are_refused() -> None:
    x = normal(2, 64)
    for format in ("f16", "q9_9"):
        with pytest.raises(ValueError, match=format):
            encode(format, x)
    for columns in (np.ones(63, np.float32), np.ones((1, 64), np.float32)):
        with pytest.raises(ValueError, match="shape"):
            encode("q4_0", x, columns)
    for bad in (-1, np.nan, np.inf):
        columns = np.ones(64, np.float32)
        columns[5] = bad
        with pytest.raises(ValueError, match="importance"):
            encode("q4_0", x, columns)


def halves_near(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.astype(np.float16).astype(np.float32)


def test_scales_are_rounded_to_halves() -> None:
    x = heavy(1000) * np.float32(100)
    np.testing.assert_array_equal(half(x), halves_near(x))
    np.testing.assert_array_equal(half(x, 4) * 4, halves_near(x * 4))
    assert half(np.array([1e9, -1e9], np.float32)).tolist() == [65504, -65504]
