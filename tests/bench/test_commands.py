"""The commands' parts that can be right or wrong: the process protocol, what a token reads, the table."""
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from bench import generations, gpu
from bench.make_model import make_pth
from bench.model_facts import model_facts
from bench.remote import Remote
from bench.rounds import interleave
from bench.sizes import Sizes
from bench.table import render
from tests.conftest import DEVICE_BACKENDS, need_backend


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "model.pth"
    make_pth(path, Sizes("7", n_layer=1, n_embd=128, n_vocab=300))
    return path


def test_an_engine_in_its_process_answers(model: Path) -> None:
    facts = model_facts(model)
    with Remote("ours", model, 1, {"strategy": "numpy"}) as remote:
        assert remote.call("prompt", tokens=facts.tokens(3)) > 0
        assert remote.call("steps", tokens=facts.tokens(2)) > 0
        assert remote.call("batch", prompts=[[1, 2], [3]], tokens=[4, 5]) > 0


@pytest.mark.parametrize("name", DEVICE_BACKENDS)
def test_a_device_is_measured(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need_backend(name)
    monkeypatch.setattr(gpu, "COPIED", 1 << 16)
    chosen = Namespace(strategy=name, prompt=10, tokens=2, rounds=1)
    row = gpu.measure(model, chosen, import_module(f"bench.{name}").copy)
    assert all(value > 0 for value in row.values() if isinstance(value, float))
    host, exposed = row["least"], row["its least"]
    assert isinstance(host, float)
    assert isinstance(exposed, float)
    assert exposed < host if name == "webgpu" else exposed == host  # WebGPU's driver encodes ahead


@pytest.mark.soak
@pytest.mark.parametrize("name", DEVICE_BACKENDS)
def test_generations_leave_nothing_on_a_device(model: Path, name: str) -> None:
    need_backend(name)
    row = generations.measure(model, name, 200)
    for column in ("device MB", "objects"):
        before, after = str(row[column]).split(" → ")
        assert before == after


def test_an_engine_that_cannot_open_the_file_says_why(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match=r"model\.pth"):
        Remote("ours", path, 1, {"strategy": "numpy"})


def test_a_token_reads_everything_but_the_embedding(model: Path) -> None:
    facts = model_facts(model)
    vectors = 128 * 30  # at most, in bfloat16
    low_rank = 2 * 128 * sum(Sizes("7", 1, 128).ranks7.values())
    matrices = 4 * 128**2 + 2 * 4 * 128**2 + low_rank
    assert facts.prompt_macs == matrices
    assert 0 <= facts.bytes_per_token - 2 * (matrices + 300 * 128) <= 2 * vectors
    assert all(0 < token < 300 for token in facts.tokens(1000))


def test_rounds_take_turns_and_leave_the_first_out() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    assert interleave(["a", "b"], measure, rounds=3) == [5, 6]
    assert calls == ["a", "b"] * 4


def test_a_table_has_a_column_for_every_name_in_any_row() -> None:
    text = render([{"engine": "x", "tok/s": 123.4}, {"engine": "long name", "MB": 1.5}])
    assert text.splitlines() == [
        "| engine    | tok/s |   MB |",
        "| --------- | ----: | ---: |",
        "| x         |   123 |    - |",
        "| long name |     - | 1.50 |",
    ]
