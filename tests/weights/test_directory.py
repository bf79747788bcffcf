"""Model directories: config.json, shards, what lies beside them, and what may not be reached from them."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.weights import open_weights, read_raw
from tests.checkpoints.namings import renamed
from tests.checkpoints.pth import write_pth
from tests.checkpoints.safetensors import write_directory, write_safetensors
from tests.checkpoints.tiny import tiny
from tests.weights.mutation import must_refuse
from tests.weights.owner import assert_zero_copy

INDEX = "model.safetensors.index.json"
ONE = np.ones(4, np.float32)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize(("naming", "version"), [("hf", "4"), ("hf", "6"), ("fla", "7"), ("original", "7")])
def test_a_directory_reads_like_one_file(tmp_path: Path, naming: str, version: str, shards: int) -> None:
    checkpoint = tiny(version, layer0_v=naming != "fla")
    one = open_weights(write_safetensors(tmp_path / "one.st", checkpoint, naming)).tensors
    weights = open_weights(write_directory(tmp_path / "model", checkpoint, naming, shards=shards))
    assert weights.path == tmp_path / "model"
    assert weights.source == "safetensors"
    assert weights.tensors.keys() == one.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(weights.tensors[name].decode(), tensor.decode())
    assert_zero_copy(weights)


def test_the_index_file_stands_for_its_directory(tmp_path: Path) -> None:
    write_directory(tmp_path, tiny("7"), "original", shards=2, head_size=16)
    weights = open_weights(tmp_path / INDEX)
    assert weights.path == tmp_path
    assert weights.hints.head_size == 16


@pytest.mark.parametrize(("config", "head_size", "eps"), [
    ({}, None, 1e-5),
    ({"head_dim": 64, "norm_eps": 1e-6}, 64, 1e-6),
    ({"head_size": 32, "layer_norm_epsilon": 1e-4}, 32, 1e-4),
    ({"head_size": None, "norm_eps": None}, None, 1e-5),
])  # fmt: skip
def test_hints_come_from_config_json(tmp_path: Path, config: dict[str, Any], head_size: int | None, eps: float) -> None:
    hints = open_weights(write_directory(tmp_path, tiny("7"), "original", **config)).hints
    assert (hints.head_size, hints.layer_norm_eps) == (head_size, eps)


def test_hugging_face_weights_are_not_divided_whatever_rescale_every_says(tmp_path: Path) -> None:
    weights = open_weights(write_directory(tmp_path, tiny("6"), "hf", rescale_every=6))
    assert weights.hints.rescale_every_n_layers == 0
    assert weights.metadata["config"]["rescale_every"] == 6


def test_config_json_counts_for_the_file_beside_it_that_has_the_standard_name(tmp_path: Path) -> None:
    write_directory(tmp_path, tiny("7"), "original", head_size=16)
    assert open_weights(tmp_path / "model.safetensors").hints.head_size == 16
    other = write_pth(tmp_path / "another-model.pth", tiny("7"))
    assert open_weights(other).hints.head_size is None


@pytest.mark.parametrize("name", ["rwkv_vocab_v20230424.txt", "tokenizer.json"])
def test_a_vocabulary_beside_the_model_is_recorded(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path, tiny("7"), "original")
    assert "vocabulary_file" not in open_weights(tmp_path).metadata
    (tmp_path / name).write_text("1 'a' 1\n")
    assert open_weights(tmp_path).metadata["vocabulary_file"] == str(tmp_path / name)


@pytest.mark.parametrize("name", ["RWKV-x070.pth", "pytorch_model.bin", "some.st"])
def test_a_directory_with_one_model_file_of_any_name_is_that_model(tmp_path: Path, name: str) -> None:
    if name.endswith(".st"):
        write_safetensors(tmp_path / name, tiny("7"))
    else:
        write_pth(tmp_path / name, renamed(tiny("5.2"), "hf"))
    assert "blocks.2.ffn.key.weight" in open_weights(tmp_path).tensors


def test_the_choice_between_several_files_is_left_to_the_user(tmp_path: Path) -> None:
    for name in ("b.pth", "a.pth"):
        write_pth(tmp_path / name, {"x": ONE})
    assert "(a.pth, b.pth)" in must_refuse(open_weights, tmp_path)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    assert "no model file" in must_refuse(open_weights, tmp_path)


def shard_index(directory: Path, weight_map: Any) -> Path:
    write_safetensors(directory / "a.safetensors", {"x": ONE})
    write_safetensors(directory / "b.safetensors", {"y": ONE})
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return directory / INDEX


@pytest.mark.parametrize("escape", [
    "../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\b.safetensors", "C:x.safetensors",
    "a\0b", "a\nb", 3, None, ["a.safetensors"],
])  # fmt: skip
def test_shards_outside_the_directory_are_not_opened(tmp_path: Path, escape: Any) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    write_safetensors(tmp_path / "secret.safetensors", {"x": ONE})
    index = shard_index(directory, {"x": escape})
    assert "a file beside the index" in must_refuse(read_raw, index)


@pytest.mark.parametrize(
    ("weight_map", "problem"),
    [
        ({"x": "c.safetensors"}, "shard 'c.safetensors' is missing"),
        ({"x": "b.safetensors"}, "tensor 'x' is not in shard 'b.safetensors'"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        (None, "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, weight_map: Any, problem: str) -> None:
    assert problem in must_refuse(read_raw, shard_index(tmp_path, weight_map))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = shard_index(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    write_safetensors(tmp_path / "b.safetensors", {"x": ONE, "y": ONE})
    assert "in two shards" in must_refuse(read_raw, index)


DAMAGED_JSON = ["", "[]", '{"a": 1', '{"a": 1, "a": 2}', "[" * 100_000, '{"head_size": ' + "9" * 9999 + "}"]


@pytest.mark.parametrize("text", DAMAGED_JSON, ids=range(len(DAMAGED_JSON)))
@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_damaged_json_gets_one_clear_error_that_names_its_file(tmp_path: Path, file: str, text: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", tiny("7"))
    (tmp_path / file).write_text(text)
    assert file in must_refuse(open_weights, tmp_path)


@pytest.mark.parametrize(("key", "value"), [
    ("head_dim", 0), ("head_dim", -64), ("head_dim", "64"), ("head_dim", True), ("head_size", 64.0),
    ("head_size", 1 << 40), ("norm_eps", 0), ("norm_eps", -1e-5), ("norm_eps", 2.0), ("layer_norm_epsilon", "1e-5"),
    ("layer_norm_epsilon", 1e999),
])  # fmt: skip
def test_impossible_values_in_config_json_are_named(tmp_path: Path, key: str, value: Any) -> None:
    write_directory(tmp_path, tiny("7"), "original", **{key: value})
    message = must_refuse(open_weights, tmp_path)
    assert key in message or "Infinity" in message
