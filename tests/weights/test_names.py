"""Every project's names for every version it has come out as the same tensors under ours."""
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.weights import Weights, open_weights, read_raw
from rwkv_edge.weights.names import fla, hf, original, to_ours, web_rwkv
from tests.checkpoints.namings import renamed
from tests.checkpoints.pth import write_pth
from tests.checkpoints.safetensors import write_directory, write_safetensors
from tests.checkpoints.tiny import VERSIONS, Checkpoint, Sizes, tiny
from tests.weights.mutation import must_refuse
from tests.weights.owner import assert_zero_copy

S = Sizes()
C, H, N = S.n_embd, S.n_head, S.head_size
MODULES = {"original": original, "hf": hf, "fla": fla, "web_rwkv": web_rwkv}
CASES = [(naming, version) for naming in ("original", "hf") for version in VERSIONS]
CASES += [("fla", "7"), ("web_rwkv", "5.2"), ("web_rwkv", "6"), ("web_rwkv", "7")]


def canonical(checkpoint: Checkpoint) -> Checkpoint:
    """What our names mean, straight from BlinkDL's arrays: low-rank maps as [out, in], vectors flat."""
    low_rank = re.compile(r".*\.att\.(time_maa_w[12]|time_decay_w[12]|[wavg][12])")

    def ours(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        if low_rank.fullmatch(name):
            return array.swapaxes(-1, -2)
        return array.reshape(-1) if array.shape[:2] == (1, 1) else array

    return {name: ours(name, array) for name, array in checkpoint.items()}


def assert_equal(weights: Weights, expected: Checkpoint) -> None:
    assert weights.tensors.keys() == expected.keys()
    for name, array in expected.items():
        tensor = weights.tensors[name]
        assert tensor.name == name
        assert tensor.shape == tensor.data.shape == array.shape
        np.testing.assert_array_equal(tensor.decode(), array, err_msg=name)


@pytest.mark.parametrize("file", ["safetensors", "pth"])
@pytest.mark.parametrize(("naming", "version"), CASES)
def test_every_naming_gives_the_same_tensors(tmp_path: Path, naming: str, version: str, file: str) -> None:
    checkpoint = tiny(version, layer0_v=naming != "fla")
    path = tmp_path / "model"
    if file == "safetensors":
        write_safetensors(path, checkpoint, naming)
    else:
        write_pth(path, renamed(checkpoint, naming))
    weights = open_weights(path)
    assert_equal(weights, canonical(checkpoint))
    assert_zero_copy(weights)


@pytest.mark.parametrize(("naming", "version"), CASES)
def test_each_naming_is_recognised_as_itself(tmp_path: Path, naming: str, version: str) -> None:
    raw = read_raw(write_safetensors(tmp_path / "model.st", tiny(version), naming))
    recognised = {name for name, module in MODULES.items() if module.recognise(raw)}
    # web-rwkv's names include BlinkDL's, which are asked last for that reason.
    assert recognised - {"original"} == {naming} - {"original"}


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "4": {"time_decay": (C,), "time_first": (C,), "time_mix_k": (C,)},
    "5.0": {"time_decay": (H,), "time_first": (H,), "time_mix_r": (C,), "ln_x.weight": (C,)},
    "5.1": {"time_decay": (H,), "time_first": (H,), "time_mix_g": (C,)},
    "5.2": {"time_decay": (H, N), "time_faaaa": (H, N)},
    "6": {
        "time_maa_x": (C,), "time_maa_w1": (5 * S.mix_rank, C), "time_maa_w2": (5, C, S.mix_rank), "time_decay": (C,),
        "time_decay_w1": (S.decay_rank, C), "time_decay_w2": (C, S.decay_rank), "time_faaaa": (H, N),
    },
    "7": {
        "x_r": (C,), "w0": (C,), "w1": (8, C), "w2": (C, 8), "a1": (12, C), "v2": (C, 4), "g1": (20, C), "g2": (C, 20),
        "k_k": (C,), "k_a": (C,), "r_k": (H, N),
    },
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_our_shapes_are_as_documented(tmp_path: Path, version: str) -> None:
    tensors = open_weights(write_pth(tmp_path / "model.pth", tiny(version))).tensors
    for name, shape in SHAPES[version].items():
        assert tensors[f"blocks.1.att.{name}"].shape == shape
    assert tensors["blocks.1.ffn.key.weight"].shape == (S.n_ffn, C)
    assert tensors["emb.weight"].shape == tensors["head.weight"].shape == (S.n_vocab, C)


@pytest.mark.parametrize(("version", "name", "shape"), [
    ("5.1", "time_decay", (H, 1, 1)), ("5.1", "time_first", (H, 1, 1)), ("5.2", "time_faaaa", (H, N, 1)),
    ("6", "time_decay", (C,)), ("6", "time_faaaa", (H, N, 1)), ("7", "w0", (C,)), ("7", "r_k", (H, N, 1)),
])  # fmt: skip
def test_shapes_that_older_converters_write_mean_the_same(
    tmp_path: Path, version: str, name: str, shape: tuple[int, ...]
) -> None:
    checkpoint = tiny(version)
    expected = canonical(checkpoint)
    for i in range(S.n_layer):
        checkpoint[f"blocks.{i}.att.{name}"] = checkpoint[f"blocks.{i}.att.{name}"].reshape(shape)
    assert_equal(open_weights(write_pth(tmp_path / "model.pth", checkpoint)), expected)


def test_a_single_head_keeps_its_axis(tmp_path: Path) -> None:
    tensors = open_weights(write_pth(tmp_path / "model.pth", tiny("5.2", head_size=64))).tensors
    assert tensors["blocks.0.att.time_decay"].shape == tensors["blocks.0.att.time_faaaa"].shape == (1, 64)


@pytest.mark.parametrize("naming", ["original", "web_rwkv"])
def test_version_5_1_with_a_plain_bonus_reads_as_5_2(tmp_path: Path, naming: str) -> None:
    """Music models: `time_faaaa` [H] is used as it is, where `time_first` [H] is exponentiated."""
    checkpoint = {name.replace("time_first", "time_faaaa"): array for name, array in tiny("5.1").items()}
    weights = open_weights(write_safetensors(tmp_path / "model.st", checkpoint, naming))
    expected = {
        name: np.repeat(array[:, None], N, axis=1) if re.search(r"time_decay|time_faaaa", name) else array
        for name, array in canonical(checkpoint).items()
    }
    assert_equal(weights, expected)
    assert_zero_copy(weights)


@pytest.mark.parametrize("naming", ["original", "web_rwkv"])
def test_a_tuned_state_in_the_model_file_comes_out_as_in_the_pth(tmp_path: Path, naming: str) -> None:
    checkpoint = tiny("7")
    state = np.arange(H * N * N, dtype=np.float32).reshape(H, N, N) % 256
    checkpoint["blocks.1.att.time_state"] = state
    weights = open_weights(write_safetensors(tmp_path / "model.st", checkpoint, naming))
    np.testing.assert_array_equal(weights.tensors["blocks.1.att.time_state"].decode(), state)


@pytest.mark.parametrize("stack_shape", [(6, C), (6, 1, 1, C)])
def test_flas_six_mixes_in_one_tensor_are_taken_apart(tmp_path: Path, stack_shape: tuple[int, ...]) -> None:
    checkpoint = tiny("7", layer0_v=False)
    arrays = renamed(checkpoint, "fla")
    for i in range(S.n_layer):
        rows = [arrays.pop(f"model.layers.{i}.attn.x_{mix}").ravel() for mix in "rwkvag"]
        arrays[f"model.layers.{i}.attn.x_x"] = np.stack(rows).reshape(stack_shape)
    weights = open_weights(write_pth(tmp_path / "model.pth", arrays))
    assert_equal(weights, canonical(checkpoint))
    assert_zero_copy(weights)


def test_flas_names_are_known_without_their_prefix(tmp_path: Path) -> None:
    checkpoint = tiny("7", layer0_v=False)
    arrays = {name.removeprefix("model."): array for name, array in renamed(checkpoint, "fla").items()}
    assert_equal(open_weights(write_pth(tmp_path / "model.pth", arrays)), canonical(checkpoint))


def test_unknown_tensors_keep_their_names(tmp_path: Path) -> None:
    checkpoint = tiny("7") | {"blocks.0.ffn.s_emb.weight": np.ones((2, 3), np.float32)}
    weights = open_weights(write_pth(tmp_path / "model.pth", checkpoint))
    assert weights.tensors["blocks.0.ffn.s_emb.weight"].shape == (2, 3)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    checkpoint = tiny("7", layer0_v=False)
    del checkpoint["head.weight"]
    tensors = open_weights(write_directory(tmp_path, checkpoint, "fla", tie_word_embeddings=True)).tensors
    assert tensors["head.weight"].name == "head.weight"
    assert np.shares_memory(tensors["head.weight"].data, tensors["emb.weight"].data)


def test_tensors_of_no_rwkv_are_refused_by_their_names(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "model.pth", {"transformer.h.0.attn.c_attn.weight": np.ones((2, 2), np.float32)})
    assert "'transformer.h.0.attn.c_attn.weight'" in must_refuse(open_weights, path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.st", {})
    assert "no tensors" in must_refuse(open_weights, path)


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    arrays = renamed(tiny("4"), "hf")
    arrays["blocks.0.ln1.weight"] = arrays["rwkv.blocks.0.ln1.weight"]
    path = write_pth(tmp_path / "model.pth", arrays)
    assert "two tensors stand for 'blocks.0.ln1.weight'" in must_refuse(open_weights, path)


@pytest.mark.parametrize(("name", "shape"), [("w1", (512,)), ("w2", ()), ("g1", (0,))])
def test_a_low_rank_map_that_is_no_matrix_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    checkpoint = tiny("7") | {f"blocks.1.att.{name}": np.ones(shape, np.float32)}
    path = write_pth(tmp_path / "model.pth", checkpoint)
    assert f"blocks.1.att.{name}" in must_refuse(open_weights, path)


def test_files_of_other_formats_go_to_their_own_names(tmp_path: Path) -> None:
    raw = read_raw(write_pth(tmp_path / "model.pth", tiny("7")))
    message = must_refuse(lambda path: to_ours(replace(raw, source="gguf")), raw.path)
    assert "model.pth" in message
