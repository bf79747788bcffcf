"""Perplexity and divergence against a plain computation with the whole text at once."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import InputError, Model, quantize
from rwkv_edge.evaluation import quality
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny

TEXT = bytes(range(32, 127)) * 4  # more than two runs


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_pth(tmp_path / "bytes.pth", tiny("7", n_vocab=256), dtype="bf16")
    return Model(tmp_path / "bytes.pth", "numpy")


@pytest.fixture
def other(model: Model, tmp_path: Path) -> Model:
    quantize(model.weights.path, tmp_path / "bytes.gguf", "q8_0")
    return Model(tmp_path / "bytes.gguf", "numpy")


def log_probabilities(model: Model, tokens: list[int]) -> np.ndarray:
    logits = model.forward([0, *tokens[:-1]], full=True)[0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_perplexity_is_the_mean_of_all_tokens_from_the_start_of_a_document(model: Model) -> None:
    tokens = model.tokenizer.encode(TEXT)
    seen: list[tuple[int, int]] = []
    score = quality.perplexity(model, tokens, lambda done, total: seen.append((done, total)))
    expected = -log_probabilities(model, tokens)[np.arange(len(tokens)), tokens]
    assert score.nats == pytest.approx(expected.sum(), rel=1e-5)
    assert (score.tokens, score.bytes) == (len(tokens), len(TEXT))
    assert score.bits_per_byte == pytest.approx(expected.mean() / np.log(2), rel=1e-5)
    assert score.bits_per_token == pytest.approx(score.bits_per_byte)
    assert score.perplexity == pytest.approx(np.exp(expected.mean()), rel=1e-4)
    assert seen == [(128, 380), (256, 380), (380, 380)]


def test_a_model_agrees_with_itself(model: Model) -> None:
    found = quality.compare(model, model, model.tokenizer.encode(TEXT))
    assert (found.kl_mean, found.kl_p99, found.top1_agreement) == (0, 0, 1)
    assert found.a == found.b
    assert set(quality.tensor_errors(model.weights, model.weights).values()) == {0.0}


def test_divergence_and_tensor_errors_of_a_quantized_copy(model: Model, other: Model) -> None:
    tokens = model.tokenizer.encode(TEXT)
    found = quality.compare(model, other, tokens)
    p, q = log_probabilities(model, tokens), log_probabilities(other, tokens)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    assert found.kl_mean == pytest.approx(kl.mean(), rel=1e-3)
    assert found.kl_p99 == pytest.approx(np.percentile(kl, 99), rel=1e-3)
    assert found.kl_max == pytest.approx(kl.max(), rel=1e-3)
    assert found.top1_agreement == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert found.b == quality.perplexity(other, tokens)
    errors = quality.tensor_errors(model.weights, other.weights)
    name = "blocks.1.ffn.value.weight"
    a, b = (m.weights.tensors[name].decode().astype(np.float64) for m in (model, other))
    assert errors[name] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert errors["blocks.1.ln1.weight"] == 0


def test_what_cannot_be_measured_is_told(model: Model, tiny_pth: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        quality.perplexity(model, [])
    with Model(tiny_pth("7"), "numpy") as another, pytest.raises(InputError, match="256 and 97 tokens"):
        quality.compare(model, another, [1])


def test_a_text_of_nothing_and_a_damaged_model_have_no_figures(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text to predict"):
        quality.perplexity(model, [0, 0])
    with pytest.raises(InputError, match="no text to predict"):
        quality.compare(model, model, [0])
    checkpoint = tiny("7", n_vocab=256)
    checkpoint["ln_out.weight"] = np.full_like(checkpoint["ln_out.weight"], np.nan)
    write_pth(tmp_path / "damaged.pth", checkpoint, dtype="f32")
    with Model(tmp_path / "damaged.pth", "numpy") as damaged, pytest.raises(InputError, match="NaN"):
        quality.perplexity(damaged, list(b"text"))
