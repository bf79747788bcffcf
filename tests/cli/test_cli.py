"""The command line: what it prints, and that a user's mistake is one sentence and a non-zero exit, never a traceback."""
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge import Model, registry
from rwkv_edge.backend import Availability
from rwkv_edge.cli import main
from rwkv_edge.demo import MODEL_PATH
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny
from tests.conftest import DEVICE_BACKENDS, need_backend


@pytest.fixture
def byte_model_path(tmp_path: Path) -> str:
    write_pth(tmp_path / "bytes.pth", tiny("7", n_vocab=256), dtype="bf16")
    return str(tmp_path / "bytes.pth")


def test_run_prints_the_prompt_and_its_continuation(byte_model_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", byte_model_path, "--strategy", "numpy", "-p", "Hello", "-n", "8", "--seed", "1", "--stats"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Hello")
    assert len(out) > len("Hello\n")
    assert "first token after" in err


@pytest.mark.parametrize("device", DEVICE_BACKENDS)
def test_run_says_once_which_device_it_took(byte_model_path: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    need_backend(device)
    for _ in range(2):
        assert main(["run", byte_model_path, "--strategy", device, "-p", "a", "-n", "2"]) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
        assert [note.startswith(f"rwkv-edge: note: {device} runs on ") for note in notes] == [True]


def test_the_same_seed_prints_the_same_text(byte_model_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", byte_model_path, "-p", "Hello", "-n", "16", "--seed", "7", "--top-p", "0.9"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first


def test_a_prompt_is_read_from_a_pipe(byte_model_path: str) -> None:
    command = [sys.executable, "-m", "rwkv_edge", "run", byte_model_path, "--strategy", "numpy", "-n", "4", "--seed", "1"]
    done = subprocess.run(command, input="grüße\n".encode(), capture_output=True, check=True)
    assert done.stdout.startswith("grüße\n".encode())


def test_run_stops_at_a_stop_string_and_takes_every_sampling_option(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(MODEL_PATH), "-p", "import os", "-n", "80", "--seed", "7", "--top-p", "0.9"]
    assert main(command) == 0
    whole = capsys.readouterr().out
    assert main([*command, "--stop", "\n", "--stop", "no such text"]) == 0
    stopped = capsys.readouterr().out
    assert stopped == whole[: whole.index("\n")] + "\n" != whole
    bans = ["--ban-token", "10", "--ban-token", str(ord("e"))]
    others = "--min-p 0.01 --typical-p 0.9 --repetition-penalty 1.1 --logit-bias 97=2.5 --temperature 2"
    assert main([*command, *bans, *others.split()]) == 0
    assert not set(capsys.readouterr().out.removeprefix("import os").strip()) & set("e\n")


@pytest.mark.parametrize("version", ["4", "5.2", "7"])
def test_info_shows_version_shape_and_formats(
    version: str, tiny_pth: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tiny_pth(version))]) == 0
    out = capsys.readouterr().out
    assert f"RWKV-{version}" in out
    assert "3 layers, 64 channels" in out
    assert "f32 0." in out
    assert "as stored" in out
    assert "q8_0" in out


def test_info_as_json(tiny_pth: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_pth("6")), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["version"], facts["n_layer"], facts["n_embd"], facts["n_vocab"]) == ("6", 3, 64, 97)
    stored, *others = facts["formats"]
    assert stored["words"] == []
    assert stored["file"] == sum(facts["stored"].values()) == 4 * facts["parameters"]
    assert any("q8_0" in row["words"] for row in others)
    for row in facts["formats"]:
        assert row["memory"] == row["weights"] + facts["state"] + row["activations"]


def test_demo_continues_its_prompt_like_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "3", "-n", "200", "-p", "import os\n\nclass "]) == 0
    out, err = capsys.readouterr()
    assert "def " in out or "self" in out
    assert "tokens/s" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "/no/such/model.pth", "-p", "x"], "/no/such/model.pth"),
        (["run", "MODEL", "-p", "x", "--strategy", "abacus"], "no device 'abacus'"),
        (["run", "MODEL", "-p", "x", "--temperature", "-1"], "temperature"),
        (["run", "MODEL", "-p", "x", "--min-p", "2"], "min_p"),
        (["run", "MODEL", "-p", "x", "--logit-bias", "3=1000"], "logit_bias"),
        (["run", "MODEL", "-p", "x", "--ban-token", "-1"], "banned_tokens"),
        (["run", "MODEL", "-p", "x", "--ban-token", "256"], "256"),
        (["run", "MODEL", "-p", "x", "--stop", ""], "stop"),
        (["run", "MODEL", "-p", "x", "--tokenizer", "/no/such/vocab.txt"], "/no/such/vocab.txt"),
        (["run", "MODEL", "-p", "x", "-n", "0"], "max_tokens"),
        (["run", "MODEL", "-p", "x", "--threads", "0"], "threads"),
        (["run", "MODEL", "-p", "x", "--state", "/no/such.state"], "/no/such.state: there is no such file"),
        (["run", "MODEL", "-p", "x", "--state", "MODEL"], "is a model, not a saved state"),
        (["run", "MODEL", "-p", "x", "--lora", "/no/such.pth", "--lora-alpha", "8"], "/no/such.pth"),
        (["run", "MODEL", "-p", "x", "--lora", "MODEL", "--lora-alpha", "8"], "is a model, expected a LoRA file"),
        (["run", "MODEL", "-p", "x", "--lora-alpha", "8"], "lora_alpha"),
        (["ingest", "MODEL", "/no/such.txt", "-o", "/no/such.state"], "/no/such.txt: cannot be read"),
        (["ingest", "MODEL", "MODEL", "-o", "/no/such.state"], "cannot be saved"),
        (["ingest", "MODEL", "MODEL", "-o", "MODEL"], "exists and is no saved state"),
        (["run", "MODEL", "-p", "x", "--state", "/"], "/: is a directory, expected a saved state"),
        (["run", "MODEL", "-p", "x", "--lora", "/no/such.pth"], "there is no such file, expected a LoRA file"),
        (["run", "MODEL", "-p", "x", "--logit-bias", "256=1"], "names token 256"),
        (["quantize", "MODEL", "x.gguf", "--tokenizer", "vocab.txt"], "tokenizer is the vocabulary for calibrate"),
        (["warmup", "--threads", "2"], "belong to a model"),
        (["warmup", "--strategy", "auto"], "belong to a model"),
        (["script", "/no/such.py"], "/no/such.py: cannot be read: no such file"),
        (["script", "/"], "cannot be read"),
        (["info", "/no/such/model.gguf"], "/no/such/model.gguf"),
        (["info", "/no/such\nmodel\x1b[1m"], r"/no/such\nmodel\x1b[1m"),
        (["info", ""], "empty"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], message: str, byte_model_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([byte_model_path if a == "MODEL" else a for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""  # found before anything is printed
    assert err.startswith("rwkv-edge: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_model_with_an_unknown_vocabulary_asks_for_one(
    tiny_pth: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny_pth("7")), "-p", "x"]) == 1
    assert "97" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(byte_model_path: str) -> None:
    command = [sys.executable, "-m", "rwkv_edge", "run", byte_model_path, "--strategy", "numpy", "-p", "x", "-n", "2"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["run"], ["run", "MODEL", "--logit-bias", "a=b"], ["run", "MODEL", "--abacus"]])
def test_unknown_options_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_warmup_compiles_what_a_model_needs_and_then_nothing(tmp_path: Path) -> None:
    if not registry.availability("cpu").available:
        pytest.skip("the cpu backend")
    from rwkv_edge_cpu.code.cache import cache_directory

    Model(MODEL_PATH, "cpu").close()
    if kept := cache_directory():  # what other tests compiled need not be compiled again
        shutil.copytree(kept, tmp_path / kept.name, ignore=shutil.ignore_patterns("*.wkv7*", "*quantized*"))
    command = [sys.executable, "-m", "rwkv_edge", "warmup", str(MODEL_PATH), "--strategy", "cpu"]
    environment = os.environ | {"RWKV_EDGE_CACHE": str(tmp_path)}
    outputs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True) for _ in range(2)
    ]
    assert "kernels.wkv.wkv7-" in outputs[0].stderr
    assert "quantized" not in outputs[0].stderr  # the file has no blocks
    assert outputs[0].stdout.split()[1] == "compiled,"
    assert outputs[1].stderr == ""
    assert outputs[1].stdout.startswith("nothing compiled")


def test_warmup_without_a_model_is_for_all_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    backend = registry.load("cpu")
    compiled: list[str] = []
    monkeypatch.setattr(backend, "availability", lambda: Availability(True))
    monkeypatch.setattr(backend, "warm_up", lambda: compiled.append("all kernels"))
    assert main(["warmup"]) == 0
    assert compiled == ["all kernels"]
    assert capsys.readouterr().out.startswith("nothing compiled, ")


def test_bench_measures_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "8", "--tokens", "2", "--sequences", "3", "--rounds", "1"]
    assert main(["bench", str(MODEL_PATH), "--json", *options]) == 0
    speed = json.loads(capsys.readouterr().out)
    rates = [value for name, value in speed.items() if "_per_s" in name]
    assert len(rates) == 5
    assert min(rates) > 0
    assert main(["bench", str(MODEL_PATH), *options]) == 0
    assert "3 sequences together: " in capsys.readouterr().out
    assert main(["bench", str(MODEL_PATH), "--rounds", "0"]) == 1
    assert "--rounds must be at least 1" in capsys.readouterr().err
