"""The command where its surroundings are at odds with it: closed streams, interrupts, odd names, no memory, gone folders."""
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge.cli import main, run
from rwkv_edge.demo import MODEL_PATH

START = "import sys; from rwkv_edge.__main__ import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", START]
posix = pytest.mark.skipif(os.name != "posix", reason="signals, descriptors or file names of POSIX")


def ended(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A command of its own, that should not take long."""
    line = [*COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def closed(*descriptors: int) -> Callable[[], None]:
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


@posix
@pytest.mark.parametrize(
    ("prompt", "descriptors"),
    [([], (0,)), ([], (0, 1, 2)), (["-p", "-"], (0,)), (["-p", "-"], (0, 1)), (["-p", "x"], (1,)), (["-p", "x"], (0, 1, 2))],
)
def test_closed_streams_are_empty_ones(prompt: list[str], descriptors: tuple[int, ...]) -> None:
    done = ended("run", MODEL_PATH, *prompt, "-n", "2", stdin=None, preexec_fn=closed(*descriptors))
    assert (done.returncode, done.stderr) == (0, "")


@posix
@pytest.mark.parametrize("module", ["numpy", "rwkv_edge.model", "rwkv_edge.errors"])
def test_an_interrupt_while_modules_load_leaves_no_traceback(module: str) -> None:
    interrupt = (
        "import builtins, os, signal\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        f"    if name == {module!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupt + START, "info", str(MODEL_PATH)], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@posix
def test_a_second_interrupt_leaves_no_traceback(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("import os\nimport sys\n" * 100_000)
    line = [*COMMAND, "ingest", MODEL_PATH, text, "-o", tmp_path / "text.state", "--strategy", "numpy"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "text.state.part").exists():
        time.sleep(0.02)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    assert process.stderr is not None
    with process.stderr as stderr:
        assert "Traceback" not in stderr.read()
    assert process.returncode in (130, -signal.SIGINT)  # the latter while Python itself ends
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.state.part", "text.txt"]


@posix
def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    model = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.pth")
    try:
        shutil.copy(MODEL_PATH, model)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    small = model.replace(".pth", ".gguf")
    assert ended("quantize", model, small, "--type", "bf16").returncode == 0
    assert '"file": ' in ended("info", small, "--json").stdout
    done = ended("info", model + "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_memory_that_ends_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(run, "Model", full)
    assert main(["run", str(MODEL_PATH), "-p", "x"]) == 1
    assert capsys.readouterr().err.startswith("rwkv-edge: there is not enough memory")


@posix
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", MODEL_PATH, "x.gguf"], "x.gguf: cannot be written: no such file or directory"),
        (["ingest", MODEL_PATH, MODEL_PATH, "-o", "x.state"], "x.state.part: the state cannot be saved"),
    ],
)
def test_a_current_folder_that_is_gone(arguments: list[str | Path], message: str, tmp_path: Path) -> None:
    gone = f"import os; os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r}); os.environ['RWKV_EDGE_CACHE'] = 'here'; "
    line = [sys.executable, "-c", gone + START, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert message in done.stderr


@pytest.mark.parametrize("victim", ["text", "model", "notes"])
def test_ingest_overwrites_nothing_but_states(victim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: tmp_path / name for name in ("text", "model", "notes")}
    shutil.copy(MODEL_PATH, paths["model"])
    paths["text"].write_text("import os\n")
    paths["notes"].write_text("mine")
    before = paths[victim].read_bytes()
    command = ["ingest", str(paths["model"]), str(paths["text"]), "--strategy", "numpy", "-o"]
    assert main([*command, str(paths[victim])]) == 1
    assert "exists and is no saved state" in capsys.readouterr().err
    assert paths[victim].read_bytes() == before
    for _ in range(2):  # its own result it does replace
        assert main([*command, str(tmp_path / "text.state")]) == 0


def test_a_cache_that_cannot_be_written_is_a_note_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {"RWKV_EDGE_CACHE": str(tmp_path / "file" / "x"), "XDG_CACHE_HOME": str(tmp_path / "file"), "HOME": "/none"}
    done = ended("run", MODEL_PATH, "-p", "x", "-n", "1", "--strategy", "numpy q8_0", "--cache", env=os.environ | places)
    assert done.returncode == 0
    (note,) = done.stderr.splitlines()
    assert note.startswith("rwkv-edge: note: the converted model is not kept: ")
    assert "[Errno" not in note
