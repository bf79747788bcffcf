"""Logits equal the official `rwkv` package's, for every version, on every backend, however the tokens are fed."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import Model
from tests.checkpoints.tiny import VERSIONS

GOLDENS = Path(__file__).parent / "goldens"
TOLERANCE = 1e-4  # max abs, on logits of standard deviation 2

Golden = Any


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def golden(version: str) -> Golden:
    with np.load(GOLDENS / f"tiny-{version}.npz") as file:
        return dict(file)


@pytest.fixture
def model(version: str, backend_name: str, tiny_pth: Callable[[str], Path]) -> Any:
    with Model(tiny_pth(version), backend_name) as model:
        yield model


def assert_close(logits: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < tolerance


def test_one_token_at_a_time(model: Model, golden: Golden) -> None:
    state, logits = None, []
    for token in golden["tokens"]:
        y, state = model.forward([token], state)
        logits.append(y)
    assert_close(np.stack(logits), golden["logits"])


def test_all_tokens_at_once(model: Model, golden: Golden) -> None:
    logits, _ = model.forward(golden["tokens"], full=True)
    assert_close(logits, golden["logits"])


def test_only_the_last_logits_are_returned_unless_asked(model: Model, golden: Golden) -> None:
    logits, _ = model.forward(golden["tokens"])
    assert_close(logits, golden["logits"][-1])


def test_three_sequences_of_different_length_in_one_run(model: Model, golden: Golden) -> None:
    tokens = golden["tokens"]
    first, state = model.forward(tokens[:20], full=True)
    sequences = [tokens, tokens[20:], tokens[:1]]
    logits, _ = model.forward_batch(sequences, [model.new_state(), state, model.new_state()], full=True)
    assert_close(first, golden["logits"][:20])
    assert_close(logits[0], golden["logits"])
    assert_close(logits[1], golden["logits"][20:])
    assert_close(logits[2], golden["logits"][:1])


def test_a_prompt_longer_than_one_run_goes_through_in_pieces(
    model: Model, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_edge.opening.TOKENS_PER_RUN", 7)
    logits, _ = model.forward_batch([golden["tokens"], golden["tokens"][:10]], full=True)
    assert_close(logits[0], golden["logits"])
    assert_close(logits[1], golden["logits"][:10])


def test_the_state_after_all_tokens_is_the_official_one(model: Model, golden: Golden, version: str) -> None:
    _, state = model.forward(golden["tokens"])
    wkv = ("wkv",) if version != "4" else ("a", "b", "p")
    per_layer = 2 + len(wkv)
    for i in range(model.shape.n_layer):
        official = [golden[f"state_{i * per_layer + j}"] for j in range(per_layer)]
        ours = [state[f"blocks.{i}.att.shift"], *_wkv(state[f"blocks.{i}.att.wkv"], version), state[f"blocks.{i}.ffn.shift"]]
        for mine, theirs in zip(ours, official, strict=True):
            scale = max(1.0, np.abs(theirs).max())
            assert np.abs(mine.reshape(theirs.shape) - theirs).max() / scale < TOLERANCE


def _wkv(wkv: Any, version: str) -> list[Any]:
    return list(wkv) if version == "4" else [wkv]


def test_the_float64_definition_agrees_with_the_official_float32(
    version: str, golden: Golden, tiny_pth: Callable[[str], Path]
) -> None:
    with Model(tiny_pth(version), "numpy fp64") as model:
        logits, _ = model.forward(golden["tokens"], full=True)
        assert logits.dtype == np.float64
        assert_close(logits, golden["logits"], 2e-5)
