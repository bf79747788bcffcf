"""A long text into a state: in pieces, interrupted and resumed, with the same numbers."""
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import InputError, Model, Sampling, State, StateError, ingest
from rwkv_edge.cli import main
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.ingest import in_groups
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import Checkpoint, tiny

GROUP = 16


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "TOKENS_A_GROUP", GROUP)
    monkeypatch.setattr(ingest, "BYTES_A_BLOCK", 100)
    monkeypatch.setattr(ingest, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


@pytest.fixture
def any_model(pth_of: Callable[[Checkpoint], Path], backend_name: str) -> Iterator[Model]:
    """For what depends on who computes."""
    with Model(pth_of(tiny("7", n_vocab=256)), backend_name) as model:
        yield model


@pytest.fixture
def model(pth_of: Callable[[Checkpoint], Path]) -> Iterator[Model]:
    with Model(pth_of(tiny("7", n_vocab=256)), "numpy") as model:
        yield model


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "doc.txt"
    path.write_bytes(bytes(np.random.default_rng(0).integers(1, 256, 900, np.uint8)))
    return path


class Stop(Exception):
    pass


def stop_after(calls: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Stop

    return progress


def same(a: State, b: State) -> bool:
    return a.data.tobytes() == b.data.tobytes() and (a.fingerprint, a.tokens_seen) == (b.fingerprint, b.tokens_seen)


def test_groups_have_a_size_and_the_last_takes_the_rest() -> None:
    for n in (0, 1, 9, 10, 19, 20, 21, 29, 30, 57):
        for step in (1, 7, 60):
            pieces = [list(range(at, min(n, at + step))) for at in range(0, n, step)]
            groups = list(in_groups(pieces, 10))
            assert [token for group in groups for token in group] == list(range(n))
            assert all(len(group) == 10 for group in groups[:-1])
            assert not n or len(groups[-1]) == (n if n < 10 else 10 + n % 10)


def test_the_state_is_that_of_all_tokens(any_model: Model, document: Path, tmp_path: Path) -> None:
    calls = []
    state = any_model.ingest(document, tmp_path / "doc.state", progress=lambda done, total: calls.append((done, total)))
    _, expected = any_model.forward(any_model.tokenizer.encode(document.read_bytes()))
    assert state.tokens_seen == expected.tokens_seen == 900
    assert np.allclose(state.data, expected.data, atol=1e-4)
    assert same(any_model.load_state(tmp_path / "doc.state"), state)
    assert sorted(calls) == calls
    assert calls[-1] == (900, 900)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doc.state", "doc.txt", "model.pth"]
    assert same(any_model.ingest(document), state)


def test_an_interrupted_run_goes_on_and_ends_bit_for_bit_the_same(any_model: Model, document: Path, tmp_path: Path) -> None:
    whole = any_model.ingest(document)
    target, part = tmp_path / "doc.state", tmp_path / "doc.state.part"
    for n in range(1, 100):
        try:
            state = any_model.ingest(document, target, progress=stop_after(n % 7))
        except Stop:
            assert part.exists()
            assert not target.exists()
        else:
            break
    assert n > 10
    assert same(state, whole)
    assert same(State.load(target), whole)
    assert not part.exists()


def test_it_begins_where_a_state_ends(model: Model, document: Path, tmp_path: Path) -> None:
    _, start = model.forward([1, 2, 3])
    before = start.copy()
    with pytest.raises(Stop):
        model.ingest(document, tmp_path / "doc.state", state=start, progress=stop_after(9))
    state = model.ingest(document, tmp_path / "doc.state", state=start)
    assert same(start, before)
    assert state.tokens_seen == 903
    with pytest.raises(Stop):
        model.ingest(document, tmp_path / "doc.state", state=start, progress=stop_after(9))
    with pytest.raises(StateError, match=r"doc\.state\.part: is the checkpoint of another text, or of another state"):
        model.ingest(document, tmp_path / "doc.state")


def test_a_checkpoint_of_something_else_is_refused(model: Model, document: Path, tmp_path: Path) -> None:
    target, part = tmp_path / "doc.state", tmp_path / "doc.state.part"
    with pytest.raises(Stop):
        model.ingest(document, target, progress=stop_after(9))
    text = document.read_bytes()
    for other in (text[:50] + b"x" + text[51:], text[:120], text[:141]):
        document.write_bytes(other)
        with pytest.raises(StateError, match=r"doc\.state\.part: is the checkpoint of another text"):
            model.ingest(document, target)
    document.write_bytes(text)
    write_pth(tmp_path / "other.pth", tiny("7", n_vocab=256, seed=5))
    with Model(tmp_path / "other.pth", "numpy") as stranger, pytest.raises(StateError) as caught:
        stranger.ingest(document, target)
    assert model.fingerprint in str(caught.value)
    assert stranger.fingerprint in str(caught.value)
    assert "delete this checkpoint" in str(caught.value)
    document.write_bytes(text + b"and more")  # what the checkpoint has read is the same
    assert same(model.ingest(document, target), model.ingest(document))
    model.new_state().save(part)  # not a checkpoint
    with pytest.raises(StateError, match="is the checkpoint of another text"):
        model.ingest(document, target)
    part.write_bytes(b"damaged")
    with pytest.raises(StateError, match=r"doc\.state\.part"):
        model.ingest(document, target)


def test_mistakes_are_named_before_anything_is_computed(model: Model, document: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    for path, message in ((tmp_path / "none.txt", "cannot be read"), (empty, "is empty"), (tmp_path, "no regular file")):
        with pytest.raises(InputError, match=message):
            model.ingest(path, tmp_path / "doc.state")
    with pytest.raises(StateError, match="cannot be saved"):
        model.ingest(document, tmp_path / "missing" / "doc.state", progress=stop_after(0))
    with pytest.raises(StateError, match="is a directory"):
        model.ingest(document, tmp_path, progress=stop_after(0))


def test_a_float64_state_leaves_no_checkpoints(pth_of: Callable[[Checkpoint], Path], document: Path, tmp_path: Path) -> None:
    with Model(pth_of(tiny("7", n_vocab=256)), "numpy fp64") as model:
        with pytest.raises(Stop):
            model.ingest(document, tmp_path / "doc.state", progress=stop_after(9))
        assert not list(tmp_path.glob("*.part"))
        assert model.ingest(document, tmp_path / "doc.state").tokens_seen == 900


def test_memory_does_not_grow_with_the_text(
    pth_of: Callable[[Checkpoint], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TOKENS_A_GROUP", 512)
    monkeypatch.setattr(ingest, "BYTES_A_BLOCK", 1 << 16)
    monkeypatch.setattr(Model, "forward", lambda self, tokens, state: None)
    peaks = []
    with Model(pth_of(tiny("7", n_vocab=256)), "numpy") as model:
        for size in (1 << 19, 1 << 21):
            (tmp_path / "doc.txt").write_bytes(b"0123456789abcde\n" * (size // 16))
            tracemalloc.start()
            model.ingest(tmp_path / "doc.txt")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 16)


def test_the_command_reads_a_text_and_run_goes_on_from_it(
    any_model: Model, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, backend = str(any_model.weights.path), any_model.backend_name
    target = str(tmp_path / "doc.state")
    assert main(["ingest", path, str(document), "-o", target, "--strategy", backend]) == 0
    assert "doc.state: 900 tokens, 0.0 MB, in" in capsys.readouterr().out
    run = ["run", path, "--strategy", backend, "-p", "Why?", "-n", "12", "--temperature", "0"]
    assert main([*run, "--state", target]) == 0
    from_command = capsys.readouterr().out
    state = any_model.load_state(target)
    expected = list(any_model.stream(b"Why?", state, max_tokens=12, sampling=Sampling(temperature=0.0)))
    assert from_command == "Why?" + "".join(expected) + "\n"
    assert main(["run", str(MODEL_PATH), "--strategy", backend, "-p", "Why?", "--state", target]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(errors) == 1
    assert "the state belongs to 'rwkv7-3x64-" in errors[0]


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    """With the real sizes, on the bundled model, to the same bits as a process that nobody stopped."""
    document = tmp_path / "doc.txt"
    document.write_bytes(Path(__file__).read_bytes() * 3)
    script = "import sys; from rwkv_edge import cli, ingest; ingest.SECONDS_BETWEEN_CHECKPOINTS = 0.05; sys.exit(cli.main())"
    command = [sys.executable, "-c", script, "ingest", str(MODEL_PATH), str(document), "--threads", "1", "-o"]
    subprocess.run([*command, str(tmp_path / "whole.state")], check=True, capture_output=True)
    target, part = tmp_path / "doc.state", tmp_path / "doc.state.part"
    stopped = subprocess.Popen([*command, str(target)], stderr=subprocess.PIPE, text=True)
    while stopped.poll() is None and not (part.exists() and State.load(part).tokens_seen > 1000):
        time.sleep(0.02)
    stopped.send_signal(number)
    _, err = stopped.communicate()
    assert stopped.returncode == (130 if number == signal.SIGINT else -number)
    assert ("the same command goes on from the last checkpoint" in err) == (number == signal.SIGINT)
    assert not target.exists()
    subprocess.run([*command, str(target)], check=True, capture_output=True)
    assert target.read_bytes() == (tmp_path / "whole.state").read_bytes()
    assert not part.exists()
