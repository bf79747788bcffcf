"""score, embed, tokenize: the model's numbers about a text, against their definitions."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rwkv_edge_numpy.executable import NumpyExecutable

from rwkv_edge import InputError, Model, StateError
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Batch
from rwkv_edge.plan import MatMul
from rwkv_edge.weights import open_weights
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny

TEXT = "The quick brown fox. " * 9  # more than a run of `score`


@pytest.fixture
def byte_model(pth_of: Callable[[Checkpoint], Path], backend_name: str) -> Model:
    return Model(pth_of(tiny("7", n_vocab=256)), backend_name)


def log_softmax(row: np.ndarray) -> np.ndarray:
    p = np.exp(row.astype(np.float64) - row.max())
    return np.log(p / p.sum())


def test_a_score_is_what_forward_says_token_by_token(byte_model: Model) -> None:
    state, expected = byte_model.new_state(), []
    for before, token in zip([0, *TEXT.encode()], TEXT.encode(), strict=False):
        logits, _ = byte_model.forward([before], state)
        expected.append(log_softmax(logits)[token])
    scores = byte_model.score(TEXT)
    assert scores.dtype == np.float64
    assert scores.shape == (len(TEXT),)
    assert np.allclose(scores, expected, atol=1e-4)
    assert np.array_equal(byte_model.score(list(TEXT.encode())), scores)


def test_answers_are_scored_after_what_a_state_has_seen(byte_model: Model) -> None:
    logits, state = byte_model.forward([0, *b"Question: "])
    for answer in ("yes", "n"):
        branch = state.copy()
        scores = byte_model.score(answer, branch, logits)
        assert np.allclose(scores, byte_model.score("Question: " + answer)[10:], atol=1e-4)
        assert branch.tokens_seen == 11 + len(answer)


def test_a_score_needs_tokens_and_the_logits_of_a_state(byte_model: Model) -> None:
    _, state = byte_model.forward([1, 2])
    with pytest.raises(InputError, match="needs the logits"):
        byte_model.score("x", state)
    with pytest.raises(InputError, match=r"\[256\], got \[3, 256\]"):
        byte_model.score("x", state, np.zeros((3, 256)))
    with pytest.raises(InputError, match="no tokens"):
        byte_model.score("")
    with pytest.raises(InputError, match="256 is outside"):
        byte_model.score([256])
    fresh = byte_model.new_state()
    byte_model.score("ab", fresh)
    assert fresh.tokens_seen == 3  # the end of a document first


@pytest.mark.parametrize("version", VERSIONS)
def test_an_embedding_is_the_row_before_the_head(version: str, backend_name: str, tiny_pth: Callable[[str], Path]) -> None:
    path, tokens = tiny_pth(version), [5, 17, 3, 60, 60, 9]
    with Model(path, backend_name) as model:
        last, mean = model.embed(tokens), model.embed(tokens, pooling="mean")
        head = next(op for op in reversed(build_plan(open_weights(path)).ops) if isinstance(op, MatMul)).weight.decode()
        logits, _ = model.forward(tokens, full=True)
    assert last.dtype == mean.dtype == np.float32
    assert last.shape == mean.shape == (64,)
    assert np.allclose(head @ last, logits[-1], atol=2e-3)
    assert np.allclose(head @ mean, logits.mean(axis=0), atol=2e-3)


def test_an_embedding_follows_the_state(byte_model: Model) -> None:
    state = byte_model.new_state()
    byte_model.forward(list(b"Hello"), state)
    assert np.allclose(byte_model.embed(" you", state), byte_model.embed("Hello you"), atol=1e-4)
    assert state.tokens_seen == 9
    byte_model.forward([1], state)  # and the state goes on to be used as any other
    rows = [byte_model.embed("abcde"[:n]) for n in range(1, 6)]
    assert np.allclose(byte_model.embed("abcde", pooling="mean"), np.mean(rows, axis=0), atol=1e-4)
    assert np.isclose(np.linalg.norm(byte_model.embed("abcde", normalize=True)), 1)


def test_a_text_of_several_runs_has_the_vectors_of_a_whole(byte_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge.model.TOKENS_PER_RUN", 20)
    tokens, state = np.random.default_rng(1).integers(1, 256, 48), byte_model.new_state()
    quarters = [byte_model.embed(quarter, state, pooling="mean") for quarter in np.split(tokens, 4)]  # each is one run
    assert np.allclose(byte_model.embed(tokens, pooling="mean"), np.mean(quarters, axis=0), atol=1e-4)
    start = byte_model.new_state()
    byte_model.forward(tokens[:-1], start)
    assert np.allclose(byte_model.embed(tokens), byte_model.embed(tokens[-1:], start), atol=1e-4)


def test_an_embedding_refuses_what_it_cannot_do(byte_model: Model, tiny_pth: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match='"last" or "mean"'):
        byte_model.embed("x", pooling="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no tokens"):
        byte_model.embed("")
    with Model(tiny_pth("6"), "numpy") as other, pytest.raises(StateError):
        byte_model.embed("x", other.new_state())


def test_the_embedding_shares_the_weights_a_strategy_made(pth_of: Callable[[Checkpoint], Path]) -> None:
    with Model(pth_of(tiny("7", n_vocab=256)), "numpy q8_0") as model:
        model.embed("x")
        assert model._embedder is not None
        executable = model._embedder._executable
        assert isinstance(executable, NumpyExecutable)
        ours = {id(tensor.data) for tensor in model.plan.weights()}
        assert all(id(tensor.data) in ours for tensor in executable.plan.weights())
        batch = Batch(np.array([1, 2, 3], np.int32), [3], [model.new_state().data], np.arange(3, dtype=np.int32))
        assert executable.run(batch)[0].shape == (3, 64)


def test_tokens_and_back(byte_model: Model) -> None:
    assert byte_model.tokenize("né") == list("né".encode())
    assert byte_model.detokenize(np.array(byte_model.tokenize("né"))) == "né"
    assert byte_model.detokenize([0xC3]) == "\ufffd"
