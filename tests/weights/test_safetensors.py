"""safetensors files: what the specification allows is read in place, all else gets one clear error."""
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights import open_weights, read_raw
from tests.checkpoints.safetensors import file_bytes, safetensors_bytes, write_safetensors
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.weights.mutation import assert_survives, must_refuse, mutants, truncations
from tests.weights.owner import assert_zero_copy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.st"


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_every_dtype_comes_back_exactly(path: Path, dtype: str) -> None:
    checkpoint = tiny("6")
    raw = read_raw(write_safetensors(path, checkpoint, dtype=dtype, metadata={"format": "pt"}))
    assert raw.source == "safetensors"
    assert raw.metadata == {"format": "pt"}
    for name, array in checkpoint.items():
        expected = array.astype(np.float16).astype(np.float32) if dtype == "f16" else array
        assert raw.tensors[name].format == dtype
        assert raw.tensors[name].shape == array.shape
        np.testing.assert_array_equal(raw.tensors[name].decode(), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_copied(path: Path, version: str) -> None:
    write_safetensors(path, tiny(version))
    assert_zero_copy(read_raw(path))
    assert_zero_copy(open_weights(path))


def test_data_may_start_at_an_odd_byte(path: Path) -> None:
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    header = entry_header({"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]})
    path.write_bytes(file_bytes(header + " " * ((len(header) + 1) % 2), numbers.tobytes(), align=1))
    x = read_raw(path).tensors["x"]
    assert not x.data.flags.aligned
    np.testing.assert_array_equal(x.decode(), numbers)
    np.testing.assert_array_equal(x.transpose().decode(), numbers.T)


def test_scalars_and_empty_tensors_are_allowed(path: Path) -> None:
    header = {
        "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]},
        "one": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    path.write_bytes(file_bytes(json.dumps(header), np.float32(3).tobytes()))
    tensors = read_raw(path).tensors
    assert tensors["none"].decode().shape == (0, 5)
    assert tensors["one"].decode() == 3


def entry_header(entry: Any) -> str:
    return json.dumps({"x": entry})


def x(**changes: Any) -> str:
    """The header of one 2 x 2 tensor, 16 bytes, with changes."""
    return entry_header({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes)


def two(first: list[int], second: list[int], shape: int = 2) -> str:
    return json.dumps({
        "a": {"dtype": "F32", "shape": [shape], "data_offsets": first},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (x(dtype="I64"), "dtype 'I64'"),
        (x(dtype="F8_E4M3"), "dtype 'F8_E4M3'"),
        (x(dtype=7), "dtype <int>"),
        (x(dtype=[]), "dtype <list>"),
        (x(shape=[2, 3]), "expected 24 bytes"),
        (x(shape=[2, True]), "not a list of sizes"),
        (x(shape=[2, 2.0]), "not a list of sizes"),
        (x(shape=[2, -2]), "not a list of sizes"),
        (x(shape="22"), "no shape"),
        (x(shape=[1] * 9), "9 axes"),
        (x(shape=[1 << 62, 4]), "impossible shape"),
        (x(shape=[1 << 63, 0], data_offsets=[0, 0]), "impossible shape"),
        (x(data_offsets=[0, 1 << 63]), "expected 16 bytes"),
        (x(data_offsets=[-16, 0]), "expected 16 bytes"),
        (x(data_offsets=[16, 0]), "expected 16 bytes"),
        (x(data_offsets=[0.0, 16.0]), "not two numbers"),
        (x(data_offsets=[0, True]), "not two numbers"),
        (x(data_offsets=[0, 8, 16]), "not two numbers"),
        (x(data_offsets=[1 << 62, (1 << 62) + 16]), "hole"),
        (x(strides=[1, 2]), "not described by"),
        (entry_header([]), "not described by"),
        (entry_header(None), "not described by"),
        (two([0, 8], [4, 12]), "overlaps"),
        (two([0, 8], [0, 8]), "overlaps"),
        (two([4, 12], [12, 20]), "hole of 4 bytes"),
        (two([0, 4], [8, 16], 1), "hole of 4 bytes"),
        (two([0, 4], [4, 12], 1), "belong to no tensor"),
        (two([0, 8], [8, 16])[:-1] + ', "a": 3}', "two values for 'a'"),
        ('{"x": {"dtype": "F32", "dtype": "F16", "shape": [], "data_offsets": [0, 2]}}', "two values for 'dtype'"),
        ('{"__metadata__": {"a": 1}}', "__metadata__"),
        ('{"__metadata__": []}', "__metadata__"),
        ('{"x": NaN}', "number NaN"),
        ('{"x": 1' + "0" * 5000 + "}", "5001 digits"),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"x": ' * 100_000, "nested too deeply"),
        ('{"x": 1', "not JSON"),
        ("{}{}", "not JSON"),
        ("[]", "first bytes"),
        ('{"\\ud800": 1}', "'\\ud800'"),
    ],
)
def test_a_header_that_does_not_describe_the_data_gets_one_clear_error(path: Path, header: str, problem: str) -> None:
    path.write_bytes(file_bytes(header, b"\0" * 16))
    message = must_refuse(read_raw, path)
    assert problem in message or problem == "first bytes"


def test_a_header_that_is_not_utf_8_is_refused(path: Path) -> None:
    path.write_bytes(file_bytes(b'{"\xff": 1}', b""))
    assert "not UTF-8" in must_refuse(read_raw, path)
    path.write_bytes(file_bytes("{".encode("utf-16-le") + '"x": 1}'.encode("utf-16-le"), b""))
    must_refuse(read_raw, path)


@pytest.mark.parametrize("size", [9, 1000, 100 << 20, 1 << 62, (1 << 64) - 1])
def test_an_absurd_header_length_is_refused_without_allocating_it(path: Path, size: int) -> None:
    path.write_bytes(size.to_bytes(8, "little") + b'{"a":{}}')
    must_refuse(read_raw, path)


def test_a_missing_byte_is_told_apart_from_a_surplus_one(path: Path) -> None:
    data = safetensors_bytes({"x": np.ones(4, np.float32)})
    path.write_bytes(data[:-1])
    assert "cut off" in must_refuse(read_raw, path)
    path.write_bytes(data + b"\0")
    assert "belong to no tensor" in must_refuse(read_raw, path)


@pytest.mark.parametrize("count", [290_000, 1_000_000])
@pytest.mark.parametrize(
    "piece", ["[],", '{"a":1},', '"ab",', "1.5,", "[[[[1]]]],"], ids=["lists", "objects", "texts", "floats", "nested"]
)
def test_a_header_full_of_values_costs_little(path: Path, piece: str, count: int) -> None:
    header = '{"x": [' + piece * (count // (piece.count(",") + piece.count("[") + piece.count("{"))) + "0]}"
    path.write_bytes(file_bytes(header, b""))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            read_raw(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def small_model() -> bytes:
    return safetensors_bytes(tiny("7", n_layer=1, n_embd=16, n_ffn=16, n_vocab=8))


def test_every_truncation_is_refused(path: Path) -> None:
    damaged = list(truncations(small_model(), random.Random(1), 300))
    assert assert_survives(open_weights, path, iter(damaged)) == len(damaged)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_mutants_open_or_get_one_clear_error(path: Path, seed: int) -> None:
    data = small_model()
    hot = (range(8), range(8, 8 + int.from_bytes(data[:8], "little")))
    assert assert_survives(open_weights, path, mutants(data, random.Random(seed), 700, hot)) > 350


def test_mutants_allocate_little(path: Path) -> None:
    data = safetensors_bytes({"x": np.ones((2, 3), np.float32), "y": np.ones(5, np.float32)})
    tracemalloc.start()
    try:
        assert_survives(read_raw, path, mutants(data, random.Random(5), 1000))
    finally:
        tracemalloc.stop()
