"""Matrices in the format that a strategy asks for."""
import re
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from bench.make_model import make_pth
from bench.sizes import Sizes
from rwkv_edge import InputError, Model, quantize
from rwkv_edge.arch import build_plan
from rwkv_edge.convert.conversions import WORDS, Conversions, converted, converted_all, converted_plan
from rwkv_edge.convert.mix import MIXES
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.tensor import Tensor
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny

TOKENS = [1, 5, 96, 0, 33, 33, 7]

# Largest error of the logits of `small` that is taken for rounding, as a share of their spread, by the bits of the matrices.
ERRORS = {2: 1.2, 3: 0.9, 4: 0.45, 5: 0.2, 6: 0.08, 8: 0.04, 16: 1e-3, 32: 1e-5}


ONE_WORD_EACH = list({meaning: word for word, meaning in WORDS.items()}.values())


def pairs(names: Iterable[str], of_all_versions: Iterable[str]) -> list[tuple[str, str]]:
    """Every name with one version, and a few with all: a version says which tensors there are, not what a format does."""
    return [*((name, "7") for name in names), *((name, v) for name in of_all_versions for v in ("4", "5.2", "6"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """small(version): a model with whole blocks of every format, and random weights, which feel every error."""
    folder = tmp_path_factory.mktemp("small")

    def path(version: str) -> Path:
        target = folder / f"{version}.pth"
        if not target.exists():
            write_pth(target, tiny(version, n_embd=256, n_ffn=512, n_layer=2, head_size=64), dtype="bf16")
        return target

    return path


def matrix(name: str, width: int = 64, largest: float = 1.0, height: int = 8) -> Tensor:
    values = np.random.default_rng(0).uniform(-largest, largest, (height, width)).astype(np.float32)
    return Tensor(name, values.shape, "f32", values)


@pytest.mark.parametrize(("word", "version"), pairs(ONE_WORD_EACH, ("fp16", "q8", "q4")))
def test_every_word_runs_and_stays_near(word: str, version: str, small: Callable[[str], Path]) -> None:
    path = small(version)
    with Model(path, "numpy fp32") as model:
        expected = model.forward(TOKENS, full=True)[0]
    with Model(path, f"numpy {word}") as model:
        found = model.forward(TOKENS, full=True)[0]
    bits = re.search(r"\d+", MIXES[WORDS[word].type].matrices)
    assert bits
    assert np.sqrt(np.mean((found - expected) ** 2)) <= ERRORS[int(bits[0])] * expected.std()


@pytest.mark.parametrize(("type", "version"), pairs(MIXES, ("bf16", "q8_0", "q4")))
def test_a_word_means_the_file_that_quantize_makes(
    type: str, version: str, small: Callable[[str], Path], tmp_path: Path
) -> None:
    path = small(version)
    quantize(path, tmp_path / "model.gguf", type)
    ours = converted_plan(build_plan(open_weights(path)), type).weights()
    for found, expected in zip(ours, build_plan(open_weights(tmp_path / "model.gguf")).weights(), strict=True):
        assert (found.name, found.shape, found.format) == (expected.name, expected.shape, expected.format)
        np.testing.assert_array_equal(found.data, expected.data, found.name)


def test_every_format_has_a_word() -> None:
    assert set(WORDS) >= {"fp32", "fp16", "bf16", "q4", "q8"} | {format for format in FORMATS if not FORMATS[format].is_float}
    assert all(format.type in MIXES for format in WORDS.values())


def test_words_for_the_same_thing() -> None:
    assert {WORDS[word].type for word in ("int8", "fp16i8", "fp32i8", "q8_0")} == {"q8_0"}
    assert WORDS["q4_k"] == WORDS["q4_k_m"]
    assert [word for word, format in WORDS.items() if format.precision] == ["fp32"]


@pytest.mark.parametrize(("type", "error"), [("f32", 0), ("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 5e-3), ("q4_0", 0.13)])
def test_numbers_stay_near(type: str, error: float) -> None:
    tensor = matrix("blocks.0.att.key.weight")
    result = converted(tensor, type)
    assert result.format == type
    assert result.shape == tensor.shape
    assert np.abs(result.decode() - tensor.data).max() <= error


def test_a_matrix_in_that_format_is_not_touched() -> None:
    tensor = converted(matrix("head.weight"), "q8_0")
    assert converted(tensor, "q8_0") is tensor


def test_low_rank_maps_and_odd_rows_stay_floats() -> None:
    assert converted(matrix("blocks.0.att.w1"), "q4").format == "f32"
    assert converted(matrix("blocks.0.ffn.key.weight", width=48), "q4").format == "f16"
    assert converted(matrix("blocks.0.ffn.key.weight", width=96), "q4").format == "q5_0"


def test_head_and_embedding_keep_eight_bits_under_q4() -> None:
    assert {converted(matrix(name), "q4").format for name in ("head.weight", "emb.weight")} == {"q8_0"}


def test_numbers_that_the_format_cannot_hold_stay() -> None:
    assert converted(matrix("head.weight", largest=1e6), "f16").format == "f32"
    tensor = matrix("blocks.0.att.key.weight", height=40_000)
    tensor.data[39_999, 3] = np.inf
    assert converted(tensor, "q8_0") is tensor
    assert converted(tensor, "f16").format == "f16"


@pytest.mark.parametrize("type", ["q4_k_m", "q8_0", "f16"])
def test_the_same_bytes_and_progress_whatever_the_number_of_threads(type: str) -> None:
    tensors = [matrix(f"blocks.{i}.ffn.key.weight", width=256, height=5000) for i in range(2)]  # more than a piece each
    tensors.append(matrix("blocks.0.att.w1"))  # stays
    calls: list[tuple[int, int]] = []
    serial = converted_all(tensors, type, threads=1)
    parallel = converted_all(tensors, type, threads=3, progress=lambda *at: calls.append(at))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one.data, other.data)
    assert parallel[2] is tensors[2]
    assert calls == sorted(calls)
    assert calls[-1] == (2 * tensors[0].nbytes,) * 2


def test_memory_is_the_result_and_some_pieces(tmp_path: Path) -> None:
    make_pth(tmp_path / "model.pth", Sizes("7", n_layer=1, n_embd=256))
    plan = build_plan(open_weights(tmp_path / "model.pth"))
    converted(matrix("blocks.0.att.key.weight"), "q8_0")  # loads what is loaded once
    tracemalloc.start()
    try:
        result = converted_plan(plan, "q8_0", threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(tensor.nbytes for tensor in result.weights())
    assert size > 36e6
    assert peak < size + 40e6  # the embedding alone is 67 MB as floats


def test_matrices_are_made_as_they_are_asked_for() -> None:
    tensors = [matrix(f"blocks.{i}.ffn.key.weight", height=1000 + i) for i in range(30)]
    calls: list[tuple[int, int]] = []
    conversions = Conversions([(t, "q8_0") for t in tensors], threads=2, progress=lambda *at: calls.append(at))
    assert conversions.format(tensors[0]) == "q8_0"
    other = matrix("head.weight")
    assert conversions.format(other) == "f32"
    arriving = conversions.each([tensors[3], other, tensors[0]])
    total = sum(tensor.nbytes for tensor in tensors)
    for expected in (converted(tensors[3], "q8_0"), other, converted(tensors[0], "q8_0")):
        np.testing.assert_array_equal(next(arriving).data, expected.data)
    assert next(arriving, None) is None
    assert calls == [(tensors[3].nbytes, total), (tensors[3].nbytes + tensors[0].nbytes, total)]


def test_formats_are_known_when_the_numbers_were_looked_at() -> None:
    right, wrong = matrix("head.weight"), matrix("emb.weight", largest=1e6)
    conversions = Conversions([(right, "f16"), (wrong, "f16")])
    assert [conversions.format(tensor) for tensor in (right, wrong)] == ["f16", "f16"]
    conversions.look()
    assert [conversions.format(tensor) for tensor in (right, wrong)] == ["f16", "f32"]
    assert [tensor.format for tensor in conversions.each([wrong, right])] == ["f32", "f16"]


def test_an_interrupt_ends_it() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted_all([matrix("blocks.0.ffn.key.weight", height=40_000)], "q8_0", threads=2, progress=interrupt)


def test_an_unknown_type_is_told() -> None:
    with pytest.raises(InputError, match="unknown type 'q7'"):
        converted(matrix("head.weight"), "q7")
