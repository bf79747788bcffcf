"""The GGUF files we write are those of llama.cpp's converter: against the independent writer in tests/checkpoints."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import Model, quantize
from rwkv_edge.tokenizer.world import WORLD_FILE, unpack
from rwkv_edge.weights import open_weights, read_raw
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny

LOW_RANK = re.compile(r"blk\.\d+\.time_mix_[avg][12]\.weight")


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("version", ["6", "7"])
def test_names_shapes_formats_and_bytes_are_the_converters(version: str, type: str, pth: Path, tmp_path: Path) -> None:
    checkpoint = tiny(version, n_vocab=256)
    write_pth(pth, checkpoint, dtype="bf16")
    quantize(pth, tmp_path / "ours.gguf", type)
    ours = read_raw(tmp_path / "ours.gguf").tensors
    theirs = read_raw(write_gguf(tmp_path / "theirs.gguf", checkpoint, type)).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape, name
        if type == "q8_0" and LOW_RANK.fullmatch(name):
            assert ours[name].format == "bf16", name  # as the source has it: llama-quantize leaves these alone, and so do we
            continue
        assert ours[name].format == tensor.format, name
        np.testing.assert_array_equal(ours[name].data, tensor.data, name)


@pytest.mark.parametrize("version", ["6", "7"])
def test_the_metadata_are_the_converters(version: str, pth: Path, tmp_path: Path) -> None:
    checkpoint = tiny(version, n_vocab=256)
    write_pth(pth, checkpoint, dtype="bf16")
    quantize(pth, tmp_path / "ours.gguf", "bf16")
    theirs: dict[str, Any] = dict(read_raw(write_gguf(tmp_path / "theirs.gguf", checkpoint, "bf16")).metadata)
    theirs["general.name"] = "model"
    assert dict(read_raw(tmp_path / "ours.gguf").metadata) == theirs


@pytest.mark.parametrize("version", ["4", "5.1", "6", "7"])
def test_the_gguf_package_reads_our_files(version: str, pth: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    write_pth(pth, tiny(version, n_vocab=300), dtype="bf16")
    quantize(pth, tmp_path / "ours.gguf", "q8_0")
    theirs, ours = gguf.GGUFReader(tmp_path / "ours.gguf"), read_raw(tmp_path / "ours.gguf")
    assert {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")} == ours.metadata
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.format, mine.shape) == (tensor.tensor_type.name.lower(), tuple(tensor.shape[::-1].tolist()))
        assert mine.data.tobytes() == tensor.data.tobytes()


def test_a_world_model_gets_its_vocabulary(pth: Path, tmp_path: Path) -> None:
    write_pth(pth, tiny("7", n_vocab=65536, n_embd=32, n_ffn=32, n_layer=1), dtype="bf16")
    quantize(pth, tmp_path / "world.gguf", "bf16")
    fields = read_raw(tmp_path / "world.gguf").metadata
    tokens = fields["tokenizer.ggml.tokens"]
    world = unpack(WORLD_FILE.read_bytes(), "world.bin")
    assert tokens[:2] == ["<s>", "\\x00"]
    assert tokens[1 : len(world) + 1] == [repr(token)[2:-1] for token in world]
    assert tokens[len(world) + 1 :] == [f"[PAD{i}]" for i in range(65530, 65536)]
    assert fields["tokenizer.ggml.token_type"] == [3] + [1] * 65529 + [5] * 6
    assert (fields["tokenizer.ggml.eot_token_id"], tokens[261]) == (261, "\\n\\n")
    assert "{{- 'User: ' + message['content']|trim + '\\n\\n' -}}" in fields["tokenizer.chat_template"]
    with Model(pth, "numpy") as before, Model(tmp_path / "world.gguf", "numpy") as after:
        text = "Grüße, 世界!\n\n\t\x00"
        assert after.tokenizer.encode(text) == before.tokenizer.encode(text)


def test_a_model_without_a_known_vocabulary_says_none(pth: Path, tmp_path: Path) -> None:
    write_pth(pth, tiny("7"), dtype="bf16")
    quantize(pth, tmp_path / "out.gguf", "f32")
    fields = read_raw(tmp_path / "out.gguf").metadata
    assert (fields["tokenizer.ggml.model"], fields["rwkv7.vocab_size"]) == ("none", 97)


def test_what_a_gguf_says_about_its_model_is_kept(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "source.gguf", tiny("6", n_vocab=300, n_layer=5), rescale_every=2)
    quantize(source, tmp_path / "out.gguf", "q8_0")
    before, after = open_weights(source), open_weights(tmp_path / "out.gguf")
    assert after.metadata["general.name"] == "Tiny"
    assert after.hints == before.hints
    assert after.metadata["general.file_type"] == 7


def test_layer_0_without_unused_tensors_gets_stand_ins(pth: Path, tmp_path: Path) -> None:
    write_pth(pth, tiny("7", layer0_v=False), dtype="bf16")
    quantize(pth, tmp_path / "out.gguf", "f32")
    tensors = read_raw(tmp_path / "out.gguf").tensors
    for i in range(3):
        a, v = (tensors[f"blk.0.time_mix_{x}{i}.weight"].data for x in "av")
        np.testing.assert_array_equal(a, v)
