"""What people do with a Model: feed, branch, save, continue, and get told what is wrong."""
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from rwkv_edge_numpy.executable import NumpyExecutable

from rwkv_edge import InputError, Model, ModelFileError, PromptWarning, Sampler, Sampling, State, StateError, registry
from rwkv_edge.backend import Batch, HoldsStates, Traits
from rwkv_edge.convert.model_cache import ModelCacheWarning
from rwkv_edge.plan import Wkv7
from rwkv_edge.strategy import FallbackWarning, StrategyNotice
from tests.checkpoints.tiny import Checkpoint, tiny

TinyPth = Callable[[str], Path]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def byte_model(pth_of: Callable[[Checkpoint], Path], backend_name: str) -> Model:
    """Random weights over the byte vocabulary: any text goes in, noise comes out."""
    return Model(pth_of(tiny("7", n_vocab=256)), backend_name)


def test_a_state_that_is_passed_in_is_advanced_in_place_and_returned(byte_model: Model) -> None:
    state = byte_model.new_state()
    _, returned = byte_model.forward([1, 2], state)
    assert returned is state
    assert state.tokens_seen == 2


def test_a_copied_state_is_a_branch_of_its_own(byte_model: Model) -> None:
    _, state = byte_model.forward(list(b"The quick"))
    branch = state.copy()
    expected, _ = byte_model.forward([40, 41], state)
    byte_model.forward([99, 98, 97], byte_model.new_state())
    logits, _ = byte_model.forward([40, 41], branch)
    assert np.array_equal(logits, expected)


def test_an_executable_may_ask_for_short_runs(pth_of: Callable[[Checkpoint], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    run = NumpyExecutable.run

    def noted(self: NumpyExecutable, batch: Batch) -> Any:
        lengths.append(len(batch.tokens))
        return run(self, batch)

    monkeypatch.setattr(NumpyExecutable, "run", noted)
    monkeypatch.setattr(NumpyExecutable, "tokens_per_run", 5, raising=False)
    Model(pth_of(tiny("7")), "numpy").forward(list(range(1, 13)))
    assert lengths == [4, 4, 4]


def test_no_tokens_is_an_error(byte_model: Model) -> None:
    with pytest.raises(InputError, match="at least one token"):
        byte_model.forward([])


@pytest.mark.parametrize("token", [-1, 256, 2**40])
def test_a_token_id_out_of_range_is_named(byte_model: Model, token: int) -> None:
    state = byte_model.new_state()
    with pytest.raises(InputError, match=f"token id {token} is outside the vocabulary, 0 to 255"):
        byte_model.forward([5, token], state)
    assert state.tokens_seen == 0
    assert np.array_equal(state.data, byte_model.new_state().data)


def test_tokens_must_be_integers(byte_model: Model) -> None:
    with pytest.raises(InputError, match="integers"):
        byte_model.forward([0.5])  # type: ignore[list-item]


def test_two_sequences_cannot_share_a_state(byte_model: Model) -> None:
    state = byte_model.new_state()
    same = State(state.data, state.slots, state.fingerprint)
    for states in ([state, state], [state, same]):
        with pytest.raises(InputError, match="share a state"):
            byte_model.forward_batch([[1], [2]], states)
    with pytest.raises(InputError, match="2 sequences need as many states, got 1"):
        byte_model.forward_batch([[1], [2]], [state])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("hi", "got text"),
        (3, "one sequence"),
        ([[1], [2]], "one sequence"),
        ([[1], [1, 2]], "one sequence"),
        ([2**70], "64 bits"),
    ],
)
def test_what_is_no_sequence_of_token_ids_is_refused(byte_model: Model, tokens: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        byte_model.forward(tokens)


def test_a_stream_checks_its_arguments_before_the_first_piece(byte_model: Model) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        byte_model.stream("x", max_tokens=0)
    with pytest.raises(InputError, match="text or bytes"):
        byte_model.stream(None)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_run_can_use_the_model(byte_model: Model) -> None:
    if isinstance(byte_model._executable, HoldsStates):
        pytest.skip("a device cannot be used in a forked process")
    with byte_model._turns.lock:  # as if another thread were running it
        child = os.fork()
        if child == 0:
            logits, _ = byte_model.forward([1, 2])
            os._exit(0 if np.isfinite(logits).all() else 1)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
    assert (ended, status) == (child, 0)


def test_an_empty_prompt_starts_a_document(byte_model: Model) -> None:
    first, _ = byte_model.forward([0])
    tokens = list(byte_model.stream_tokens([], max_tokens=1, sampler=Sampler(GREEDY)))
    assert tokens in ([int(first.argmax())], [])
    byte_model.generate("", max_tokens=3)


def test_an_empty_prompt_cannot_continue_a_state(byte_model: Model) -> None:
    _, state = byte_model.forward([1])
    with pytest.raises(InputError, match="prompt is empty"):
        byte_model.generate("", state)


def test_generation_leaves_the_state_behind_all_it_wrote(byte_model: Model) -> None:
    state = byte_model.new_state()
    tokens = list(byte_model.stream_tokens([10, 11], state, max_tokens=5, sampler=Sampler(GREEDY)))
    assert state.tokens_seen == 2 + len(tokens)
    _, expected = byte_model.forward([10, 11, *tokens])
    assert np.allclose(state.data, expected.data, atol=1e-5)


def test_generate_is_the_joined_stream_and_repeats_with_a_seed(byte_model: Model) -> None:
    sampling = Sampling(seed=3, top_p=0.9)
    text = byte_model.generate("Hello", max_tokens=20, sampling=sampling)
    assert text == "".join(byte_model.stream("Hello", max_tokens=20, sampling=sampling))
    assert text != byte_model.generate("Hello", max_tokens=20, sampling=Sampling(seed=4, top_p=0.9))


@pytest.mark.parametrize("space", [" ", "  ", "\t", " \n", "\u3000"])
def test_a_space_after_assistant_is_warned_about(byte_model: Model, space: str) -> None:
    for prompt in ("User: hi\n\nAssistant:" + space, ("Assistant:" + space).encode()):
        with pytest.warns(PromptWarning, match="leave the space out") as caught:
            byte_model.generate(prompt, max_tokens=1)
        assert caught[0].filename == __file__
        with pytest.warns(PromptWarning) as caught:
            byte_model.stream(prompt)
        assert caught[0].filename == __file__


@pytest.mark.parametrize("prompt", ["User: hi\n\nAssistant:", "Assistant: yes ", "Assistant:\n", b"Assistant:"])
@pytest.mark.filterwarnings("error")
def test_other_prompts_are_not_warned_about(byte_model: Model, prompt: str | bytes) -> None:
    byte_model.generate(prompt, max_tokens=1)


def test_nan_in_the_weights_reaches_the_logits_and_generation_says_so(
    pth_of: Callable[[Checkpoint], Path], backend_name: str
) -> None:
    checkpoint = tiny("7", n_vocab=256)
    checkpoint["blocks.1.att.key.weight"][3, 5] = np.nan
    with Model(pth_of(checkpoint), backend_name) as model:
        logits, _ = model.forward([1, 2])
        assert np.isnan(logits).all()
        with pytest.raises(InputError, match="NaN"):
            model.generate("x")


def test_a_saved_state_goes_on_in_a_new_process(tiny_pth: TinyPth, backend_name: str, tmp_path: Path) -> None:
    script = (
        "import sys; from rwkv_edge import *; model = Model(sys.argv[1], sys.argv[2]); state = State.load(sys.argv[3]);"
        "print(list(model.stream_tokens([7], state, max_tokens=12, sampler=Sampler(Sampling(seed=5, top_p=0.8)))))"
    )
    for version in ("4", "7"):
        with Model(tiny_pth(version), backend_name) as model:
            _, state = model.forward([1, 2, 3, 4, 5])
            state.save(tmp_path / "s.state")
            command = [sys.executable, "-c", script, str(tiny_pth(version)), backend_name, str(tmp_path / "s.state")]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            sampler = Sampler(Sampling(seed=5, top_p=0.8))
            assert printed.strip() == str(list(model.stream_tokens([7], state, max_tokens=12, sampler=sampler)))


def test_a_state_of_another_model_is_refused(tiny_pth: TinyPth) -> None:
    seven, six = Model(tiny_pth("7"), "numpy"), Model(tiny_pth("6"), "numpy")
    with pytest.raises(StateError):
        six.forward([1], seven.new_state())


def test_threads_may_share_a_model(byte_model: Model) -> None:
    expected = [byte_model.generate(f"prompt {i}", max_tokens=15, sampling=GREEDY) for i in range(4)]
    texts = [""] * 4

    def work(i: int) -> None:
        texts[i] = byte_model.generate(f"prompt {i}", max_tokens=15, sampling=GREEDY)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == expected


def test_a_closed_model_says_so(byte_model: Model) -> None:
    byte_model.close()
    byte_model.close()
    with pytest.raises(InputError, match="closed"):
        byte_model.forward([1])


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nothing\.pth"):
        Model(tmp_path / "nothing.pth")


def test_a_state_round_trips_through_a_file(byte_model: Model, tmp_path: Path) -> None:
    _, state = byte_model.forward([1, 2, 3])
    state.save(tmp_path / "s")
    loaded = State.load(tmp_path / "s")
    assert np.array_equal(loaded.data, state.data)
    assert loaded.tokens_seen == 3


def test_what_a_start_warns_about_points_at_the_line_that_opened_the_model(
    tiny_pth: TinyPth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is shown once for each such line, and filters by module work."""
    path = tiny_pth("7")
    with pytest.warns(FallbackWarning, match="on this machine") as caught:
        Model(path, "cuda fp32").close()
    assert caught[0].filename == __file__
    with pytest.warns(StrategyNotice, match="within") as caught:
        Model(path, "numpy <1GB").close()
    assert caught[0].filename == __file__
    monkeypatch.setattr("rwkv_edge.machine.user_cache.folders", lambda name: [])
    with pytest.warns(ModelCacheWarning, match="there is no cache directory") as caught:
        Model(path, "numpy q8", cache=True).close()
    assert caught[0].filename == __file__
    npu = Mock(wraps=registry.load("numpy"), traits=Traits(), supports=lambda op: not isinstance(op, Wkv7))
    npu.name = "npu"
    monkeypatch.setattr("rwkv_edge.auto.candidates", lambda: iter([npu, registry.load("numpy")]))
    with pytest.warns(FallbackWarning, match="running on the numpy backend: the npu backend has no kernel for Wkv7") as caught:
        Model(path).close()
    assert caught[0].filename == __file__
