"""Layers that are streamed from the file: memory stays bounded, and nothing else changes."""
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny
from tests.conftest import need_backend

STEPS = """
import sys, threading
from pathlib import Path
from rwkv_edge import Model

def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) / 1024

most, done = [0.0], threading.Event()

def watch():
    while not done.wait(0.0005):
        most[0] = max(most[0], megabytes("VmRSS:"))

model = Model(sys.argv[1], sys.argv[2], threads=2, sparse=False)
watcher = threading.Thread(target=watch)
watcher.start()
model.forward([1, 2])
seen = []
state = None
for token in range(6):
    logits, state = model.forward([token], state)
    seen.append(megabytes("RssFile:"))
model.forward(list(range(40)), state)
done.set()
watcher.join()
print(max(seen), most[0], megabytes("RssAnon:"))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """98 MB in 16 layers, and a small head."""
    path = tmp_path_factory.mktemp("large") / "model.pth"
    write_pth(path, tiny("7", n_embd=512, n_ffn=2048, head_size=64, n_layer=16), dtype="bf16")
    assert path.stat().st_size > 90e6
    return path


def measured(path: Path, strategy: str) -> tuple[float, float, float]:
    """MB: of mapped files after each step, of all at the worst time once open, and memory that is no file's."""
    command = [sys.executable, "-c", STEPS, str(path), strategy]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    file, most, anonymous = map(float, done.stdout.split())
    return file, most, anonymous


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured through /proc")
def test_memory_stays_bounded(large: Path) -> None:
    need_backend("cpu")
    size = large.stat().st_size / 2**20
    measured(large, "cpu")  # whoever compiles kernels has a compiler in memory
    whole, most, anonymous = measured(large, "cpu")
    streamed, most_streamed, anonymous_streamed = measured(large, "cpu *0+")
    half, most_half, _ = measured(large, "cpu *8+")
    assert whole - streamed > 0.9 * size
    assert most - most_streamed > 0.5 * size  # a layer or two are in memory at a time, and what the system maps around
    assert 0.35 * size < whole - half < 0.65 * size
    assert most_streamed < most_half < most
    assert anonymous_streamed < anonymous + 20  # all layers work in the same memory, with the same threads


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_streamed_layers_compute_the_same(name: str, tmp_path: Path) -> None:
    need_backend(name)
    write_pth(tmp_path / "model.pth", tiny("6", n_layer=4), dtype="bf16")
    with Model(tmp_path / "model.pth", name) as model:
        expected, _ = model.forward(list(range(30)), full=True)
    for strategy in (f"{name} *0+", f"{name} *2+", f"{name} *4+", f"{name} *1+ -> numpy *1"):
        with Model(tmp_path / "model.pth", strategy) as model:
            first, state = model.forward(list(range(20)), full=True)
            steps = [model.forward([token], state)[0] for token in range(20, 30)]
        np.testing.assert_allclose(np.concatenate([first, np.stack(steps)]), expected, atol=1e-5)


def test_streamed_layers_stay_as_stored_and_in_the_file(tmp_path: Path) -> None:
    need_backend("cpu")
    write_pth(tmp_path / "model.pth", tiny("7", n_layer=4), dtype="bf16")
    with Model(tmp_path / "model.pth", "cpu q8_0 *2+") as model:
        links = model._executable.links  # type: ignore[attr-defined]
        assert [len(link.streamed) > 0 for link in links] == [False, True, True, True]
        assert len({id(link.executable._workspace) for link in links}) == 1
        formats = {op.weight.format for op in links[1].stage.plan.ops if hasattr(op, "weight") and hasattr(op.weight, "format")}
        assert formats == {"bf16"}
        embedding = next(op.weight.format for op in links[0].stage.plan.ops if type(op).__name__ == "Embed")
        assert embedding == "bf16"


def test_each_stage_has_the_next_one_read_ahead_and_the_last_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pth(tmp_path / "model.pth", tiny("7", n_layer=4), dtype="bf16")
    with Model(tmp_path / "model.pth", "numpy *0+") as model:
        links = model._executable.links  # type: ignore[attr-defined]
        stage_of = {id(weights): n for n, link in enumerate(links) for weights in link.streamed}
        read: list[int] = []
        monkeypatch.setattr("rwkv_edge.strategy.split.read_ahead", lambda weights: read.append(stage_of[id(weights)]))
        model.forward([1])
    assert [stage for stage, _ in groupby(read)] == [*range(1, len(links)), 0]


def test_a_device_leaves_streaming_to_the_cpu(tmp_path: Path) -> None:
    need_backend("webgpu")
    write_pth(tmp_path / "model.pth", tiny("7"), dtype="f32")
    with pytest.warns(UserWarning, match="webgpu keeps its weights on the device: the 3 streamed layers run on the cpu"):
        model = Model(tmp_path / "model.pth", "webgpu *1+")
    with model:
        assert model.backend_name == "webgpu -> cpu"
