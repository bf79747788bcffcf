"""Continuing text: stop strings, what a state has seen when a stream ends, cancelling, batches, threads, closing."""
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rwkv_edge import InputError, Model, Sampler, Sampling, State
from rwkv_edge.demo import MODEL_PATH, PROMPT, SAMPLING
from rwkv_edge.text.generation import TextStream
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import Checkpoint, tiny
from tests.text.test_stop import plain

GREEDY = Sampling(temperature=0)
VARIED = Sampling(top_p=0.95, seed=5)


class Scripted(Sampler):
    """Draws the tokens it was given, whatever the model says; then the end of the document."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(GREEDY)
        self.tokens = iter(tokens)

    def sample(self, logits: NDArray[Any]) -> int:
        return next(self.tokens, 0)


@pytest.fixture
def byte_model(pth_of: Callable[[Checkpoint], Path], backend_name: str) -> Model:
    return Model(pth_of(tiny("7", n_vocab=256)), backend_name)


@pytest.fixture(scope="module")
def numpy_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("generation") / "bytes.pth"
    write_pth(path, tiny("7", n_vocab=256), dtype="f32")
    return Model(path, "numpy")


@pytest.fixture(scope="module")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("generation") / "world.pth"
    write_pth(path, tiny("7", n_vocab=65536), dtype="f32")
    return Model(path, "numpy")


def assert_has_seen(model: Model, state: State, tokens: list[int]) -> None:
    assert state.tokens_seen == len(tokens)
    assert np.allclose(state.data, model.forward(tokens)[1].data, atol=1e-4)


def tokens_within(model: Model, tokens: list[int], length: int) -> list[int]:
    """As many as lie wholly in the first `length` bytes."""
    return max(
        (tokens[:n] for n in range(len(tokens) + 1) if len(model.tokenizer.decode_bytes(tokens[:n])) <= length), key=len
    )


STOPPED = [
    (["Yes", ".", "\n\n", "User"], ["\n\n"], "Yes.", 2, b""),
    (["Yes", " \n\n", "User"], ["\n\n"], "Yes ", 1, b" "),  # text and the stop string in one token
    (["Yes", "\n", "\n", "User"], ["\n\n"], "Yes", 1, b""),  # the stop string in two
    (["Yes", "\n", "User", ":", " hi"], ["\nUser:"], "Yes", 1, b""),
    (["Yes", " \n\n", "User", ":", " hi"], ["\n\nUser:"], "Yes ", 1, b" "),
    (["Yes", "\n", "no"], ["\n\n"], "Yes\nno", 3, b""),  # held back, and then no stop string
    (["a", "\n\n\n", "User"], ["\n\n"], "a", 1, b""),
    (["x", " \n\n", "y"], ["y", "\n\nz"], "x \n\n", 2, b""),
]


@pytest.mark.parametrize(("words", "stop", "text", "seen", "unseen"), STOPPED)
def test_a_stop_string_ends_the_text_and_the_state_before_it(
    world_model: Model, words: list[str], stop: list[str], text: str, seen: int, unseen: bytes
) -> None:
    tokens = [world_model.tokenize(word)[0] for word in words]
    assert world_model.detokenize(tokens) == "".join(words)
    state = world_model.new_state()
    stream = world_model.stream("Q:", state, sampling=Scripted(tokens), stop=stop)
    assert "".join(stream) == text
    assert stream.finish_reason == "stop"
    assert stream.stop_string == (None if text == "".join(words) else next(s for s in stop if text + s in "".join(words)))
    assert stream.unseen == unseen
    assert_has_seen(world_model, state, [*world_model.tokenize("Q:"), *tokens[:seen]])
    # To go on as a chat does: what was not seen, and the text between the turns.
    world_model.forward(world_model.tokenize(stream.unseen + b"\n\nUser: more"), state)
    assert_has_seen(world_model, state, world_model.tokenize("Q:" + text + "\n\nUser: more"))


def test_a_piece_never_holds_a_start_of_the_stop_string_that_became_one(world_model: Model) -> None:
    tokens = [world_model.tokenize(word)[0] for word in ("a", "\n", "b", "\n", "\n")]
    assert list(world_model.stream("x", sampling=Scripted(tokens), stop="\n\n")) == ["a", "", "\nb", "", ""]


def test_characters_and_stop_strings_may_be_cut_anywhere(numpy_model: Model) -> None:
    text = "aé→😀é" + "stop→" + "more"
    stream = numpy_model.stream("x", sampling=Scripted(list(text.encode())), stop=["stop→", "😁"])
    pieces = list(stream)
    assert "".join(pieces) == "aé→😀é"
    assert "😀" in pieces
    # A stop string that begins inside a character leaves the half of it as U+FFFD.
    script = Scripted(list("aé".encode()))
    assert numpy_model.generate("x", sampling=script, stop=b"\xa9") == "a\ufffd"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(list(b"ab\n\xc3\xa9")), min_size=1, max_size=10),
    st.lists(st.text("ab\né", min_size=1, max_size=4), max_size=3),
    st.integers(1, 12),
    st.integers(0, 12),
)
def test_whenever_a_stream_ends_the_state_has_seen_what_was_emitted(
    numpy_model: Model, tokens: list[int], stops: list[str], max_tokens: int, pieces: int
) -> None:
    state = numpy_model.new_state()
    with numpy_model.stream("Q", state, sampling=Scripted(tokens), stop=stops, max_tokens=max_tokens) as stream:
        for _, _ in zip(range(pieces), stream, strict=False):
            pass
    drawn = bytes(stream.tokens)
    whole, found = plain(drawn, [stop.encode() for stop in stops])
    if stream.finish_reason == "cancelled":
        starts = [s[:k] for stop in stops for s in [stop.encode()] for k in range(1, len(s)) if drawn.endswith(s[:k])]
        whole = whole.removesuffix(max(starts, key=len, default=b""))
    assert (stream.stop_string is not None) == (found is not None)
    seen = state.tokens_seen - 1
    if pieces == 0:
        assert (state.tokens_seen, stream.unseen) == (0, b"Q")
        return
    assert whole[: max(0, seen)] + stream.unseen == whole
    assert len(stream.unseen) <= 1  # of byte tokens only the one that was not fed yet
    assert_has_seen(numpy_model, state, [*b"Q", *whole[:seen]])


def test_length_and_the_end_of_the_document_are_told_apart(numpy_model: Model) -> None:
    for tokens, reason in ((b"abc", "stop"), (b"abcdef", "length")):
        stream = numpy_model.stream("x", sampling=Scripted(list(tokens)), max_tokens=4)
        assert "".join(stream) == tokens[:4].decode()
        assert stream.finish_reason == reason
        assert bytes(stream.tokens) == tokens[:4]


def test_a_text_that_ends_by_length_is_seen_to_its_end_where_a_state_goes_on(
    numpy_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, state = counted(numpy_model, monkeypatch), numpy_model.new_state()
    stream = numpy_model.stream("x", state, sampling=Scripted(list(b"abcdef")), max_tokens=4)
    assert ("".join(stream), stream.finish_reason, stream.unseen, len(runs)) == ("abcd", "length", b"", 5)
    assert_has_seen(numpy_model, state, list(b"xabcd"))
    runs.clear()
    stream = numpy_model.stream("x", sampling=Scripted(list(b"abcdef")), max_tokens=4)
    assert ("".join(stream), stream.finish_reason, stream.unseen, len(runs)) == ("abcd", "length", b"d", 4)


def test_held_back_text_is_emitted_when_the_text_ends_otherwise(numpy_model: Model) -> None:
    for max_tokens in (3, 9):
        assert numpy_model.generate("x", sampling=Scripted(list(b"ab\n")), stop="\n\n", max_tokens=max_tokens) == "ab\n"


def counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each run of the model."""
    runs: list[int] = []
    run = model._executable.run

    def counting(batch: Any) -> Any:
        runs.append(len(batch.tokens))
        return run(batch)

    monkeypatch.setattr(model._executable, "run", counting)
    return runs


def test_no_token_is_computed_after_a_close(byte_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(byte_model, monkeypatch)
    stream = byte_model.stream("Hello", sampling=VARIED)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert len(runs) == 1
    tokens = byte_model.stream_tokens([1, 2])
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert len(runs) == 2


def test_a_long_prompt_is_cancelled_between_its_pieces(numpy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    state, prompt = numpy_model.new_state(), "abcdefgh" * 200
    stream = numpy_model.stream(prompt, state, sampling=VARIED)
    run = numpy_model._executable.run

    def cancelling(batch: Any) -> Any:
        stream.cancel()
        return run(batch)

    monkeypatch.setattr(numpy_model._executable, "run", cancelling)
    assert list(stream) == []
    assert stream.finish_reason == "cancelled"
    assert 0 < state.tokens_seen < len(prompt)
    assert prompt.encode()[: state.tokens_seen] + stream.unseen == prompt.encode()


def test_another_thread_may_cancel_and_close(numpy_model: Model) -> None:
    stream = numpy_model.stream("Hello", sampling=Sampling(seed=1, banned_tokens=[0]), max_tokens=10**6)
    started, done = threading.Event(), threading.Event()

    def read() -> None:
        for _ in stream:
            started.set()
        done.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(10)
    stream.close()
    assert done.wait(10)
    thread.join()
    assert stream.finish_reason == "cancelled"


def test_a_sampler_goes_on_from_what_it_drew(numpy_model: Model) -> None:
    script = Scripted(list(b"abcdef"))
    assert numpy_model.generate("x", sampling=script, max_tokens=3) == "abc"
    assert numpy_model.generate("y", sampling=script, max_tokens=3) == "def"


def test_a_closed_model_ends_its_streams(byte_model: Model) -> None:
    stream = byte_model.stream("Hello", sampling=Sampling(banned_tokens=[0]))
    next(stream)
    byte_model.close()
    with pytest.raises(InputError, match="closed"):
        next(stream)


# Several prompts together.

PROMPTS = ["import os", "def f(", "", "class Reader:\n" * 40, 'x = """']


def test_a_batch_gives_each_prompt_what_it_gets_alone(byte_model: Model) -> None:
    several = [Sampling(top_p=0.9, seed=n, presence_penalty=0, frequency_penalty=0) for n in range(5)]
    lengths = [8, 1, 15, 10, 20]
    stops = [["\n\n"], [], ["import", "("], ["\n"], [")\n"]]
    together = byte_model.generate_batch(PROMPTS, max_tokens=lengths, sampling=several, stop=stops)
    alone = [
        byte_model.generate(prompt, max_tokens=n, sampling=sampling, stop=stop)
        for prompt, n, sampling, stop in zip(PROMPTS, lengths, several, stops, strict=True)
    ]
    assert together == alone


def test_prompts_of_a_batch_may_share_settings_and_repeat_with_a_seed(numpy_model: Model) -> None:
    texts = numpy_model.generate_batch(["a", "b", "a"], max_tokens=12, sampling=VARIED, stop=["\n", "~"])
    assert texts == [numpy_model.generate(p, max_tokens=12, sampling=VARIED, stop=["\n", "~"]) for p in "aba"]
    assert numpy_model.generate_batch([]) == []


def test_sequences_that_end_leave_the_batch(numpy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(numpy_model, monkeypatch)
    scripts = [Scripted(list(b"ab")), Scripted(list(b"abcde")), Scripted(list(b"abc"))]
    pieces = list(numpy_model.stream_batch(["x", "yy", "z"], sampling=scripts))
    assert [piece for piece in pieces if piece[0] == 1] == [(1, c) for c in "abcde"]
    assert pieces[:3] == [(0, "a"), (1, "a"), (2, "a")]
    assert runs == [4, 3, 3, 2, 1, 1]


def test_states_of_a_batch_are_advanced_and_branches_stay_apart(byte_model: Model) -> None:
    _, prefix = byte_model.forward(list(b"Once"))
    states = [prefix.copy(), prefix.copy()]
    scripts = [Scripted(list(b"ab")), Scripted(list(b"xyz\n\n"))]
    with byte_model.stream_batch([" u", " v"], states, sampling=scripts, stop="\n\n", max_tokens=9) as stream:
        assert [number for number, _ in stream].count(1) == 5
    assert [one.finish_reason for one in stream.continuations] == ["stop", "stop"]
    assert_has_seen(byte_model, states[0], list(b"Once uab"))
    assert_has_seen(byte_model, states[1], list(b"Once vxyz"))
    assert_has_seen(byte_model, prefix, list(b"Once"))


def test_a_batch_that_does_not_match_is_refused(numpy_model: Model) -> None:
    state = numpy_model.new_state()
    for settings_, message in (
        ({"states": [None]}, "2 prompts need as many states, got 1"),
        ({"states": [state, state]}, "share a state"),
        ({"max_tokens": [1, 2, 3]}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"sampling": [GREEDY]}, "sampling"),
        ({"stop": [["a"], ["b"], ["c"]]}, "stop"),
        ({"stop": ""}, "stop"),
    ):
        with pytest.raises(InputError, match=message):
            numpy_model.stream_batch(["a", "b"], **settings_)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="several prompts"):
        numpy_model.generate_batch("one")


# Threads, and the end of a model.


def test_eight_threads_stream_from_one_model_what_each_gets_alone(byte_model: Model) -> None:
    def continued(n: int) -> Iterator[str]:
        sampling = Sampling(top_p=0.9, seed=n, presence_penalty=0.1)
        return byte_model.stream(f"def function_{n}(", max_tokens=9 + n, sampling=sampling, stop="\n\n")

    expected = ["".join(continued(n)) for n in range(8)]
    texts, start = [""] * 8, threading.Barrier(8)

    def work(n: int) -> None:
        start.wait()
        for piece in continued(n):
            texts[n] += piece

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == expected
    assert len(set(texts)) == 8


def our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("rwkv-edge")}


def resident(path: Path) -> int | None:
    """Kilobytes of the file that this process has in memory; None where it is not mapped."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
            found = found or inside
        elif line.startswith("Rss:") and inside:
            total += int(line.split()[1])
    return total if found else None


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
@pytest.mark.parametrize("strategy", ["cpu", "cpu q8_0", "numpy"])
def test_closing_gives_back_memory_threads_and_the_file(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_pth(path, tiny("7", n_vocab=65536), dtype="f32")
    threads = our_threads()
    model = Model(path, strategy, threads=2)
    stream = model.stream("Hello", sampling=GREEDY, max_tokens=3)
    state, _ = model.new_state(), "".join(stream)
    model.embed("Hello")
    mapped = resident(path)
    assert mapped is not None
    assert mapped > 1000
    weights = [weakref.ref(tensor.data) for tensor in model.plan.weights()]
    helpers = our_threads() - threads
    assert bool(helpers) == (strategy != "numpy")
    model.close()
    gc.collect()
    assert resident(path) is None
    assert not any(array() is not None for array in weights)
    for thread in helpers:
        thread.join(5)
        assert not thread.is_alive()
    for refused in (lambda: model.forward([1], state), model.new_state, lambda: model.embed([1]), lambda: model.generate("a")):
        with pytest.raises(InputError, match="closed"):
            refused()


def test_a_stream_is_an_iterator_with_a_result() -> None:
    with Model(MODEL_PATH) as model, model.stream(PROMPT, max_tokens=5, sampling=SAMPLING) as stream:
        assert isinstance(stream, TextStream)
        assert stream.finish_reason is None
        assert iter(stream) is stream


def test_what_cannot_be_drawn_is_refused_before_the_prompt_is_read(numpy_model: Model) -> None:
    state = numpy_model.new_state()
    for wrong in (Sampling(banned_tokens=[256]), Sampler(Sampling(logit_bias={300: 1})), {"top_p": 0.5}, "greedy"):
        with pytest.raises(InputError, match=r"256 tokens|must be a Sampling"):
            numpy_model.stream("x", state, sampling=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="names token 256"):
        numpy_model.stream_tokens([1], state, sampler=Sampler(Sampling(banned_tokens=[256])))
    assert state.tokens_seen == 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_says_that_it_is_not_copied(copied: Callable[[Model], object], numpy_model: Model) -> None:
    with pytest.raises(InputError, match="cannot be pickled"):
        copied(numpy_model)
