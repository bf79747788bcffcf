"""`rwkv-edge quantize`, `perplexity` and `compare`: what they print, and that a mistake is one sentence and leaves nothing."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_edge.cli import main
from rwkv_edge.cli.progress import ProgressBar
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_pth(tmp_path / "bytes.pth", tiny("7", n_vocab=256), dtype="bf16")
    (tmp_path / "text.txt").write_text("The quick brown fox.\n" * 10)
    (tmp_path / "empty.txt").write_text("")
    return tmp_path / "bytes.pth"


def test_quantize_then_compare(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, text = str(tmp_path / "copy.gguf"), str(tmp_path / "text.txt")
    assert main(["quantize", str(model), copy, "--type", "q8_0"]) == 0
    assert "copy.gguf: q8_0, 0." in capsys.readouterr().out
    assert main(["compare", str(model), copy, "--text", text, "--strategy", "numpy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["kl_mean"] <= found["kl_p99"] <= found["kl_max"] < 0.1
    assert found["a"]["tokens"] == found["a"]["bytes"] == 210
    assert found["tensor_errors"]["blocks.0.ln1.weight"] == 0
    assert main(["compare", str(model), copy, "--text", text, "--strategy", "numpy", "--tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert "KL divergence: mean 0.0" in out
    assert "20 tokens, 20 bytes" in out


def test_perplexity(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["perplexity", str(model), "--text", str(tmp_path / "text.txt"), "--strategy", "numpy"]
    assert main(command) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main([*command, "--json", "--tokens", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 50
    assert found["bits_per_byte"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "MODEL", "OUT", "--type", "q9"], "unknown type 'q9'"),
        (["quantize", "MODEL", "MODEL.bin"], "must end in .gguf"),
        (["quantize", "/no/such.pth", "OUT", "--type", "q8_0"], "/no/such.pth"),
        (["quantize", "MODEL", "/no/such/folder/out.gguf", "--type", "q8_0"], "/no/such/folder/out.gguf"),
        (["quantize", "MODEL", "OUT", "--threads", "0"], "threads"),
        (["quantize", "", "OUT"], "empty"),
        (["perplexity", "MODEL", "--text", "/no/such.txt"], "/no/such.txt"),
        (["perplexity", "MODEL", "--text", "EMPTY"], "is empty"),
        (["perplexity", "MODEL", "--text", "EMPTY", "--tokens", "0"], "--tokens"),
        (["compare", "MODEL", "/no/such.gguf", "--text", "EMPTY"], "/no/such.gguf"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"MODEL": str(model), "OUT": str(tmp_path / "out.gguf"), "EMPTY": str(tmp_path / "empty.txt")}
    before = sorted(tmp_path.iterdir())
    assert main([names.get(a, a) for a in arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rwkv-edge: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupt_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(bar: ProgressBar, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "__call__", interrupt)
    before = sorted(tmp_path.iterdir())
    assert main(["quantize", str(model), str(tmp_path / "out.gguf"), "--type", "q8_0"]) == 130
    assert sorted(tmp_path.iterdir()) == before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from rwkv_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files' sizes there")
def test_a_file_that_may_not_grow_leaves_nothing(model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", LIMITED, "quantize", str(model), str(tmp_path / "out.gguf"), "--type", "q8_0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("rwkv-edge: ")
    assert "out.gguf: cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_bar_is_drawn_on_a_terminal_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ProgressBar("MB", 1e6)
    bar(5, 10)
    bar.end()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = ProgressBar("MB", 1e6)
    bar(5_000_000, 10_000_000)
    assert "[###############               ] 5 of 10 MB" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_kill_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressBar, "__call__", lambda bar, done, total: os.kill(os.getpid(), signal.SIGTERM))
    before, handler = sorted(tmp_path.iterdir()), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(model), str(tmp_path / "out.gguf"), "--type", "q8_0"])
    assert caught.value.code == 128 + signal.SIGTERM
    assert sorted(tmp_path.iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) == handler
