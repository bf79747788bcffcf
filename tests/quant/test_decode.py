"""Decoding blocks gives the same bits as ggml's reference, the gguf package."""
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.quant.decode import CHUNK, LAYOUTS, bf16_to_f32, decode_blocks, unpack_blocks
from rwkv_edge.quant.formats import BY_GGML_TYPE, FORMATS, UNSUPPORTED_GGML_TYPES
from rwkv_edge.weights.tensor import Tensor

BLOCK_FORMATS = [name for name, format in FORMATS.items() if not format.is_float]
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE_HALVES = EVERY_HALF[np.isfinite(EVERY_HALF)]


def reference(blocks: NDArray[np.uint8], format: str) -> NDArray[np.float32]:
    gguf = pytest.importorskip("gguf")
    decoded: NDArray[np.float32] = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(FORMATS[format].ggml_type))
    return decoded


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype == np.float32
    return alike and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def random_rows(format: str, rows: int, width: int, seed: int = 0, scales: Any = None) -> NDArray[np.uint8]:
    """Random bytes [rows, bytes a row]; the half-precision fields are taken from `scales`, so that none is infinite."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, FORMATS[format].row_bytes(width)), np.uint8)
    blocks = raw.reshape(-1).view(LAYOUTS[format])
    for field in {"d", "m", "dmin"} & set(LAYOUTS[format].names or ()):
        blocks[field] = rng.choice(FINITE_HALVES if scales is None else scales, len(blocks))
    return raw


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_random_blocks_decode_as_in_the_reference(format: str) -> None:
    raw = random_rows(format, 64, 4096)
    with np.errstate(all="ignore"):  # the largest scales overflow there too
        expected = reference(raw, format)
    decoded = decode_blocks(raw, format)
    finite = np.isfinite(expected)
    assert finite.mean() > 0.9
    assert same_bits(decoded[finite], expected[finite])
    assert (np.isnan(decoded) == np.isnan(expected)).all()


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_every_byte_value_in_every_place_decodes_as_in_the_reference(format: str) -> None:
    size = FORMATS[format].block_bytes
    raw = ((np.arange(256)[:, None] + 89 * np.arange(size)) % 256).astype(np.uint8)
    blocks = raw.reshape(-1).view(LAYOUTS[format])
    for field in {"d", "m", "dmin"} & set(LAYOUTS[format].names or ()):
        blocks[field] = 0.37
    assert same_bits(decode_blocks(raw, format), reference(raw, format))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_every_finite_scale_decodes_as_in_the_reference(format: str) -> None:
    raw = random_rows(format, 1, len(FINITE_HALVES) * FORMATS[format].block_size)
    raw.reshape(-1).view(LAYOUTS[format])["d"] = FINITE_HALVES
    step = 2048 * FORMATS[format].block_bytes
    for start in range(0, raw.shape[1], step):
        part = raw[:, start : start + step]
        assert same_bits(decode_blocks(part, format), reference(part, format))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_weights_are_scales_times_lanes_plus_offsets(format: str) -> None:
    raw = random_rows(format, 3, 512)
    unpacked = unpack_blocks(raw.reshape(-1, FORMATS[format].block_bytes), format)
    assert unpacked.lanes.dtype == np.int8
    assert unpacked.lanes[0].size == FORMATS[format].block_size
    with np.errstate(all="ignore"):
        weights = unpacked.scales[..., None] * unpacked.lanes
        weights = weights if unpacked.offsets is None else weights + unpacked.offsets[..., None]
    np.testing.assert_array_equal(weights.reshape(3, 512), decode_blocks(raw, format))


def test_a_block_worked_out_by_hand() -> None:
    """Q4_0: scale 0.5; byte i holds code i for weight i and code 15 - i for weight i + 16; codes count from 8."""
    block = np.array([0x00, 0x38, *(i | (15 - i) << 4 for i in range(16))], np.uint8)
    expected = [0.5 * (i - 8) for i in range(16)] + [0.5 * (7 - i) for i in range(16)]
    np.testing.assert_array_equal(decode_blocks(block[None], "q4_0")[0], np.array(expected, np.float32))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_float64_is_the_float32_result_widened(format: str) -> None:
    raw = random_rows(format, 2, 1024, scales=FINITE_HALVES[:100])
    wide = decode_blocks(raw, format, np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, decode_blocks(raw, format).astype(np.float64))


@pytest.mark.parametrize("format", ["q5_1", "q6_k"])
def test_more_weights_than_a_chunk_decode_like_its_parts(format: str) -> None:
    width = 2 * CHUNK + 256
    raw = random_rows(format, 1, width)
    row = FORMATS[format].row_bytes
    parts = [decode_blocks(raw[:, row(a) : row(b)], format) for a, b in ((0, 256), (256, CHUNK), (CHUNK, width))]
    np.testing.assert_array_equal(decode_blocks(raw, format), np.concatenate(parts, axis=1))


def test_leading_axes_and_slices_are_kept() -> None:
    raw = random_rows("q8_0", 15, 64).reshape(5, 3, 68)
    tensor = Tensor("w", (5, 3, 64), "q8_0", raw)
    whole = tensor.decode()
    assert whole.shape == (5, 3, 64)
    np.testing.assert_array_equal(tensor[1:4].decode(), whole[1:4])
    np.testing.assert_array_equal(tensor[2].decode(), whole[2])
    np.testing.assert_array_equal(decode_blocks(raw[::2], "q8_0"), whole[::2])
    assert tensor[0:0].decode().shape == (0, 3, 64)


def test_every_bfloat16_is_the_upper_half_of_its_float32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    assert (bf16_to_f32(bits).view(np.uint32) == bits.astype(np.uint32) * 65536).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_plain_floats_decode_through_any_strides(format: str, dtype: type[Any]) -> None:
    numbers = np.random.default_rng(1).integers(-128, 128, (40, 7000)).astype(np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    stored_as: dict[str, NDArray[Any]] = {"f32": numbers, "f16": numbers.astype(np.float16), "bf16": bits}
    decoded = decode_blocks(stored_as[format].T[::3], format, dtype)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, numbers.T[::3])


def test_float32_asked_of_float32_is_no_copy() -> None:
    numbers = np.ones((2, 3), np.float32)
    assert np.shares_memory(decode_blocks(numbers, "f32"), numbers)


@pytest.mark.parametrize(("format", "dtype"), [("q4_k", np.float32), ("iq3_s", np.float64), ("bf16", np.float64)])
def test_little_memory_is_needed_beside_the_result(format: str, dtype: type[Any]) -> None:
    rows, width = 256, 8192
    raw = np.zeros((rows, width), np.uint16) if format == "bf16" else random_rows(format, rows, width, scales=[1.0])
    tracemalloc.start()
    decoded = decode_blocks(raw, format, dtype)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - decoded.nbytes < 8 << 20


def test_damaged_scales_give_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in BLOCK_FORMATS:
            decode_blocks(np.full((2, FORMATS[format].row_bytes(256)), 0x7C, np.uint8), format)


def test_layouts_have_the_sizes_of_the_table() -> None:
    sizes = {name: dtype.itemsize for name, dtype in LAYOUTS.items()}
    assert sizes == {name: FORMATS[name].block_bytes for name in BLOCK_FORMATS}


def test_the_table_of_types_is_ggmls() -> None:
    constants = pytest.importorskip("gguf.constants")
    for member in constants.GGMLQuantizationType:
        block_size, block_bytes = constants.GGML_QUANT_SIZES[member]
        if format := BY_GGML_TYPE.get(member.value):
            ours = (format.name, format.block_size, format.block_bytes)
            assert ours == (member.name.lower(), block_size, block_bytes)
        else:
            assert UNSUPPORTED_GGML_TYPES.get(member.value, member.name.lower()) == member.name.lower()
