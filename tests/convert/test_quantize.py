"""Whatever a model comes in and goes out as, it is the same model; and nothing is ever half-written."""
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.make_model import make_pth
from bench.sizes import Sizes
from rwkv_edge import InputError, Model, ModelFileError, OutputError, quantize
from rwkv_edge.convert.mix import MIXES
from rwkv_edge.weights import open_weights, read_raw
from tests.checkpoints.canonical import canonical
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.rwkvcpp import write_rwkvcpp
from tests.checkpoints.safetensors import write_directory, write_safetensors
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny

TOKENS = [1, 5, 96, 0, 33, 33, 7]
BLOCK_TYPES = [type for type, mix in MIXES.items() if not mix.is_float]


def logits(path: Path) -> np.ndarray:
    with Model(path, "numpy") as model:
        return model.forward(TOKENS, full=True)[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The same model.


@pytest.mark.parametrize("target", ["out.gguf", "out.safetensors"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_round_trip_in_f32_keeps_every_logit(
    version: str, target: str, tiny_pth: Callable[[str], Path], tmp_path: Path
) -> None:
    quantize(tiny_pth(version), tmp_path / target, "f32")
    assert np.abs(logits(tmp_path / target) - logits(tiny_pth(version))).max() <= 1e-5
    with Model(tmp_path / target, "numpy") as after, Model(tiny_pth(version), "numpy") as before:
        assert after.fingerprint == before.fingerprint
        assert after.shape == before.shape


SOURCES: dict[str, tuple[tuple[str, ...], Callable[[Path, Checkpoint], Path | None]]] = {
    "pth bf16": (("4", "7"), lambda path, c: write_pth(path, c, dtype="bf16")),
    "original": (("5.2", "7"), lambda path, c: write_safetensors(path, c)),
    "hf directory": (("4", "6"), lambda path, c: write_directory(path, c)),
    "hf shards": (("6",), lambda path, c: write_directory(path, c, shards=3)),
    "fla": (("7",), lambda path, c: write_safetensors(path, c, naming="fla")),
    "web-rwkv": (("5.2", "6"), lambda path, c: write_safetensors(path, c, naming="web_rwkv", dtype="f32")),
    "gguf f32": (("6", "7"), lambda path, c: write_gguf(path, c, type="f32")),
    "gguf q8_0": (("6", "7"), lambda path, c: write_gguf(path, c, type="q8_0")),
    "gguf rescaled": (("6",), lambda path, c: write_gguf(path, c, type="bf16", rescale_every=2)),
    "rwkv.cpp f32": (VERSIONS, lambda path, c: write_rwkvcpp(path, c, type="f32")),
    "rwkv.cpp q8_0": (("5.1", "7"), lambda path, c: write_rwkvcpp(path, c, type="q8_0")),
}
CASES = [(name, version) for name, (versions, _) in SOURCES.items() for version in versions]


@pytest.mark.parametrize("target", ["out.gguf", "out.safetensors"])
@pytest.mark.parametrize(("source", "version"), CASES)
def test_every_source_can_be_converted(source: str, version: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    SOURCES[source][1](path, tiny(version))
    quantize(path, tmp_path / target, "f32")
    assert np.abs(logits(tmp_path / target) - logits(path)).max() <= 1e-4


@pytest.mark.parametrize(
    ("type", "version"), [*((type, "7") for type in BLOCK_TYPES), *(("q4", version) for version in ("4", "5.2", "6"))]
)
def test_every_type_gives_a_file_that_runs(type: str, version: str, tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", tiny(version, n_embd=256, n_ffn=512, n_layer=1, head_size=64), dtype="bf16")
    report = quantize(tmp_path / "model.pth", tmp_path / "out.gguf", type)
    assert report.bytes == (tmp_path / "out.gguf").stat().st_size
    tensors = open_weights(tmp_path / "out.gguf").tensors
    mix = MIXES[type]
    assert tensors["emb.weight"].format == mix.embedding
    assert tensors["head.weight"].format == mix.head
    assert tensors["blocks.0.ffn.value.weight"].format == mix.matrices
    expected, found = logits(tmp_path / "model.pth"), logits(tmp_path / "out.gguf")
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.85


def test_a_tuned_initial_state_is_kept(tmp_path: Path) -> None:
    checkpoint = tiny("7")
    checkpoint |= {f"blocks.{i}.att.time_state": np.full((4, 16, 16), 0.25, np.float32) for i in range(3)}
    write_pth(tmp_path / "model.pth", checkpoint, dtype="bf16")
    report = quantize(tmp_path / "model.pth", tmp_path / "out.gguf", "f32")
    assert np.abs(logits(tmp_path / "out.gguf") - logits(tmp_path / "model.pth")).max() <= 1e-5
    assert "tuned initial state" in report.notes[0]


def test_blocks_of_the_right_format_are_copied(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "source.gguf", tiny("7"), "q8_0")
    quantize(source, tmp_path / "out.gguf", "q8_0")
    before, after = open_weights(source).tensors, open_weights(tmp_path / "out.gguf").tensors
    np.testing.assert_array_equal(before["blocks.1.att.key.weight"].data, after["blocks.1.att.key.weight"].data)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("naming", ["original", "web_rwkv"])
@pytest.mark.parametrize("version", ["4", "5.2", "6", "7"])
def test_safetensors_are_what_the_projects_own_converters_write(
    version: str, naming: str, dtype: str, tmp_path: Path
) -> None:
    checkpoint = tiny(version)
    write_pth(tmp_path / "model.pth", checkpoint, dtype="bf16")
    target = tmp_path / ("ours.st" if naming == "web_rwkv" else "ours.safetensors")
    quantize(tmp_path / "model.pth", target, dtype)
    theirs = write_safetensors(tmp_path / "theirs.safetensors", checkpoint, naming, dtype, {"format": "pt"})
    ours, expected = read_raw(target), read_raw(theirs)
    assert ours.metadata == expected.metadata
    assert ours.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert (ours.tensors[name].shape, ours.tensors[name].format) == (tensor.shape, tensor.format), name
        np.testing.assert_array_equal(ours.tensors[name].data, tensor.data, name)


def test_the_default_type_keeps_floats_as_they_are(tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", tiny("7"), dtype="bf16")
    assert quantize(tmp_path / "model.pth", tmp_path / "out.safetensors").type == "bf16"
    assert quantize(tmp_path / "model.pth", tmp_path / "out.st").type == "f16"
    source = write_gguf(tmp_path / "model.gguf", tiny("7"), "q8_0")
    assert quantize(source, tmp_path / "out.safetensors").type == "f16"


def test_rescaled_matrices_are_whole_again_in_safetensors(tmp_path: Path) -> None:
    checkpoint = tiny("6", n_layer=5)
    quantize(write_gguf(tmp_path / "model.gguf", checkpoint, rescale_every=2), tmp_path / "out.safetensors", "f32")
    tensors = open_weights(tmp_path / "out.safetensors").tensors
    for name, array in canonical(checkpoint).items():
        np.testing.assert_array_equal(tensors[name].decode(), array, name)


def test_substitutes_and_second_quantization_are_told(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", tiny("7", n_embd=96, head_size=32), "q8_0")
    notes = " ".join(quantize(source, tmp_path / "out.gguf", "q6_k").notes)
    assert "matrices of width 96 are q8_0, because q6_k needs a multiple of 256" in notes
    assert quantize(source, tmp_path / "out.gguf", "q8").notes == ()
    assert "quantized already (q8_0)" in quantize(source, tmp_path / "out.gguf", "f16").notes[0]


def test_an_epsilon_that_safetensors_cannot_hold_is_told(tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "model.v1", tiny("7"), naming="fla", norm_eps=1e-6)
    notes = quantize(folder, tmp_path / "out.safetensors").notes
    assert notes == ("safetensors have no place for the layer norms' epsilon, which is 1e-06 here",)
    quantize(folder, tmp_path / "out.gguf", "f32")
    after = open_weights(tmp_path / "out.gguf")
    assert after.hints.layer_norm_eps == 1e-6
    assert after.metadata["general.name"] == "model.v1"


def test_an_importance_must_fit_its_tensor(tiny_pth: Callable[[str], Path], tmp_path: Path) -> None:
    importance = {"blocks.0.att.key.weight": np.ones(63, np.float32)}
    with pytest.raises(InputError, match=r"blocks\.0\.att\.key\.weight has shape \[63\], expected \[64\]"):
        quantize(tiny_pth("7"), tmp_path / "out.gguf", "q8_0", importance=importance)


# Memory, progress, and what may go wrong.


def test_memory_is_some_pieces_whatever_a_tensors_size(tmp_path: Path) -> None:
    make_pth(tmp_path / "model.pth", Sizes("7", n_layer=1, n_embd=256))
    done: list[int] = []
    tracemalloc.start()
    try:
        quantize(tmp_path / "model.pth", tmp_path / "out.gguf", "q8_0", threads=2, progress=lambda n, _: done.append(n))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # the embedding alone is 67 MB as floats
    assert done == sorted(done)
    assert done[-1] == open_weights(tmp_path / "model.pth").nbytes


def test_the_same_bytes_whatever_the_number_of_threads(tiny_pth: Callable[[str], Path], tmp_path: Path) -> None:
    for threads in (1, 3):
        quantize(tiny_pth("7"), tmp_path / f"model-{threads}.gguf", "q8_0", threads=threads)
    first, second = ((tmp_path / f"model-{n}.gguf").read_bytes() for n in (1, 3))
    assert first.replace(b"model-1", b"model-3") == second


def test_an_interrupt_leaves_what_was_there(tiny_pth: Callable[[str], Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        quantize(tiny_pth("7"), tmp_path / "out.gguf", "q8_0", progress=interrupt)
    assert files(tmp_path) == ["out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def test_a_number_that_half_precision_cannot_hold_is_named(tmp_path: Path) -> None:
    checkpoint = tiny("7")
    checkpoint["blocks.1.ffn.key.weight"][3, 3] = 1e6
    write_pth(tmp_path / "model.pth", checkpoint, dtype="f32")
    with pytest.raises(ModelFileError, match=r"blocks\.1\.ffn\.key\.weight cannot become f16: has numbers beyond 65504"):
        quantize(tmp_path / "model.pth", tmp_path / "out.gguf", "f16")
    assert files(tmp_path) == ["model.pth"]


def test_wrong_arguments_are_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown type 'q9': expected one of f32 f16"):
        quantize(tmp_path / "no.pth", tmp_path / "out.gguf", "q9")
    with pytest.raises(InputError, match=r"must end in \.gguf, \.safetensors, \.st"):
        quantize(tmp_path / "no.pth", tmp_path / "out.bin", "q8_0")
    with pytest.raises(ModelFileError, match=r"no\.pth"):
        quantize(tmp_path / "no.pth", tmp_path / "out.gguf", "q8_0")


def test_what_a_target_cannot_hold_is_refused(tiny_pth: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors hold f32, f16 or bf16, not q8_0"):
        quantize(tiny_pth("7"), tmp_path / "out.safetensors", "q8_0")
    with pytest.raises(InputError, match=r"do not hold RWKV-5\.0"):
        quantize(tiny_pth("5.0"), tmp_path / "out.st")
    assert files(tmp_path) == []


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", tiny("7"))
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    for target in ("model.gguf", "link.gguf"):
        with pytest.raises(OutputError, match="belongs to the model that is read"):
            quantize(source, tmp_path / target, "q8_0")
    folder = write_directory(tmp_path / "directory", tiny("7"), naming="fla")
    with pytest.raises(OutputError, match="belongs to the model that is read"):
        quantize(folder, folder / "model.safetensors", "f32")
    assert source.read_bytes() == before
