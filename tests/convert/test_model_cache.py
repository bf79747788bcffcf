"""What a strategy converts can be kept: the same model, mapped, and never a damaged or stale one."""
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import InputError, Model
from rwkv_edge.cli import main
from rwkv_edge.convert import model_cache
from rwkv_edge.convert.model_cache import ModelCacheWarning
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.machine import user_cache
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.safetensors import write_directory
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import need_backend

TOKENS = [1, 5, 96, 0, 33, 33, 7]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(user_cache, "folders", lambda name: [tmp_path / "cache" / name])  # compiled code stays where it is
    return tmp_path / "cache" / "models"


def small(version: str, folder: Path) -> Path:
    write_pth(folder / "model.pth", tiny(version, n_embd=256, n_ffn=512, n_layer=2, head_size=64), dtype="bf16")
    return folder / "model.pth"


Computed = tuple[list[tuple[str, bytes]], np.ndarray]  # the weights, format and bits of each; logits


def computed(path: Path, strategy: str, cache: bool) -> Computed:
    with Model(path, strategy, cache=cache) as model:
        weights = [(weight.format, weight.data.tobytes()) for weight in model.plan.weights()]
        return weights, model.forward(TOKENS, full=True)[0]


def assert_same(actual: Computed, expected: Computed) -> None:
    """The weights bit by bit. NumPy's products may sum in another order (they did so once in CI)."""
    assert actual[0] == expected[0]
    np.testing.assert_allclose(actual[1], expected[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("version", "strategy"), [*((version, "numpy q4_k") for version in VERSIONS), ("7", "cpu q4"), ("7", "numpy fp16")]
)
def test_a_cached_start_computes_the_same(version: str, strategy: str, folder: Path, tmp_path: Path) -> None:
    need_backend(strategy.partition(" ")[0])
    path = small(version, tmp_path)
    expected = computed(path, strategy, cache=False)
    assert not folder.exists()
    for _ in range(2):
        assert_same(computed(path, strategy, cache=True), expected)
        [kept] = folder.iterdir()
    calls: list[int] = []
    with Model(path, strategy, cache=True, progress=lambda done, _: calls.append(done)) as model:
        assert calls == []
        assert model.weights.path == path
        matrix = model.plan.ops[-1].weight.data  # type: ignore[union-attr]
        assert not matrix.flags.owndata
        assert not matrix.flags.writeable
        with Model(path, "numpy") as original:
            assert model.fingerprint == original.fingerprint
    assert kept.name.startswith("model-")


SOURCES: dict[str, Callable[[Path], object]] = {
    "directory": lambda path: write_directory(path, tiny("6"), shards=2),
    "gguf rescaled": lambda path: write_gguf(path, tiny("6"), type="bf16", rescale_every=2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_other_sources(source: str, folder: Path, tmp_path: Path) -> None:
    SOURCES[source](tmp_path / "model")
    expected = computed(tmp_path / "model", "numpy int8", cache=False)
    for _ in range(2):
        assert_same(computed(tmp_path / "model", "numpy int8", cache=True), expected)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "another model"])
def test_a_damaged_one_is_made_again(damage: str, folder: Path, tmp_path: Path) -> None:
    path = small("7", tmp_path)
    expected = computed(path, "numpy q4", cache=True)
    [kept] = folder.iterdir()
    whole = kept.read_bytes()
    if damage == "another model":
        write_gguf(kept, tiny("7"), "q8_0")
    else:
        kept.write_bytes({"cut": whole[:-1000], "emptied": b"", "overwritten": b"\0" * 1000}[damage])
    assert_same(computed(path, "numpy q4", cache=True), expected)
    assert kept.read_bytes() == whole


def test_another_source_or_format_is_another_file(folder: Path, tmp_path: Path) -> None:
    path = small("7", tmp_path)
    computed(path, "numpy q4", cache=True)
    computed(path, "numpy q8", cache=True)
    assert len(list(folder.iterdir())) == 2
    checkpoint = tiny("7", n_embd=256, n_ffn=512, n_layer=2, head_size=64)
    checkpoint["head.weight"] *= 2  # the same size, and the same layer norms
    write_pth(path, checkpoint, dtype="bf16")
    os.utime(path, (1e9, 1e9))
    assert_same(computed(path, "numpy q4", cache=True), computed(path, "numpy q4", cache=False))
    assert len(list(folder.iterdir())) == 3


def test_nothing_is_kept_where_nothing_is_converted(folder: Path, tmp_path: Path) -> None:
    computed(small("7", tmp_path), "numpy", cache=True)
    computed(small("7", tmp_path), "numpy fp64", cache=True)
    computed(write_gguf(tmp_path / "model.gguf", tiny("7"), "q8_0"), "numpy q8", cache=True)
    assert not folder.exists()


def test_the_ones_used_last_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "KEPT", 2)
    path = small("7", tmp_path)
    for word in ("q8", "q4", "q8", "q6_k"):
        computed(path, f"numpy {word}", cache=True)
        for file in folder.iterdir():  # time passes
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 10))
    assert sorted(file.name.split("-")[1] for file in folder.iterdir()) == ["q6_k", "q8"]


def test_without_a_place_to_write_it_goes_on_without(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small("7", tmp_path)
    expected = computed(path, "numpy q4", cache=False)
    monkeypatch.setattr(user_cache, "folders", lambda name: [path / name])  # in a file
    with pytest.warns(ModelCacheWarning, match="is not kept: .*") as caught:
        found = computed(path, "numpy q4", cache=True)
    assert len(caught) == 1
    assert_same(found, expected)
    monkeypatch.setattr(user_cache, "folders", lambda name: [])
    with pytest.warns(ModelCacheWarning, match="there is no cache directory"):
        computed(path, "numpy q4", cache=True)


def test_a_weight_that_no_block_holds_is_no_reason_to_fail(tmp_path: Path) -> None:
    checkpoint = tiny("7")
    checkpoint["emb.weight"][50, 3] = np.inf  # of a token that is not used here
    write_pth(tmp_path / "model.pth", checkpoint, dtype="f32")
    expected = computed(tmp_path / "model.pth", "numpy q8", cache=False)
    with pytest.warns(ModelCacheWarning, match=r"tensor emb\.weight cannot become q8_0"):
        found = computed(tmp_path / "model.pth", "numpy q8", cache=True)
    assert_same(found, expected)


def test_the_command_keeps_lists_and_removes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(MODEL_PATH), "-p", "def ", "-n", "4", "--temperature", "0", "--strategy", "numpy q4", "--cache"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == first.out
    assert first.err == ""
    [kept] = folder.iterdir()
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{kept.stat().st_size / 1e6:8.1f} MB  {kept}\n"
    assert main(["cache", "--clear"]) == 0
    assert list(folder.iterdir()) == []


def test_a_lora_is_refused(folder: Path, tmp_path: Path) -> None:
    path = small("7", tmp_path)
    write_pth(tmp_path / "lora.pth", {"blocks.0.ln1.weight": np.ones(256, np.float32)}, dtype="f32")
    with pytest.raises(InputError, match="a model with a LoRA is not kept"):
        Model(path, "numpy q4", lora=tmp_path / "lora.pth", cache=True)
    assert not folder.exists()
