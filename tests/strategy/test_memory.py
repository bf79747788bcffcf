"""What a model will take is known before it is taken: by `info`, by a budget, and by the check at the start."""
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rwkv_edge_device.found import Found
from rwkv_edge_webgpu import WebGpuBackend

from rwkv_edge import Model
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Availability
from rwkv_edge.cli import main
from rwkv_edge.convert.conversions import Conversions
from rwkv_edge.errors import BackendError, NotEnoughMemoryError
from rwkv_edge.machine import memory as system_memory
from rwkv_edge.plan import Embed, MatMul
from rwkv_edge.strategy import WEIGHT_FORMATS, StrategyNotice, parse
from rwkv_edge.strategy.budget import SMALLER, streaming
from rwkv_edge.strategy.memory import LayerWeights, Sizes, readable
from rwkv_edge.weights import open_weights
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import need_backend

AVAILABLE = "rwkv_edge.strategy.compiling.available_memory"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Large enough for its formats to differ by more than its activations."""
    write_pth(tmp_path / "model.pth", tiny("7", n_embd=256, n_ffn=1024, n_vocab=2048, head_size=64, n_layer=6), dtype="bf16")
    return tmp_path / "model.pth"


@pytest.fixture
def sizes(path: Path) -> Sizes:
    return Sizes(build_plan(open_weights(path)))


@pytest.mark.parametrize(
    ("word", "version"),
    [*((word, "7") for word, (format, _) in WEIGHT_FORMATS.items() if format), *(("q4", version) for version in VERSIONS[:-1])],
)
def test_sizes_are_those_of_what_is_made(word: str, version: str, tiny_pth: Callable[[str], Path]) -> None:
    format, _ = WEIGHT_FORMATS[word]
    found = Sizes(build_plan(open_weights(tiny_pth(version))))
    with Model(tiny_pth(version), f"numpy {word}") as model:
        bounds = [*model.plan.layer_starts, len(model.plan.ops)]
        made = [
            sum(op.weight.nbytes for op in model.plan.ops[a:b] if isinstance(op, MatMul | Embed))
            for a, b in zip(bounds[:-1], bounds[1:], strict=True)  # noqa: RUF007
        ]
    assert [found.layers(format)[0] + found.embedding(format, whole=True), *found.layers(format)[1:]] == made


def test_what_is_streamed_counts_as_two_layers(sizes: Sizes) -> None:
    """Those that are in memory together at the worst time."""
    stored = sizes.layers(None)
    n = len(stored)
    apart = sizes.need([LayerWeights(None, streamed=True)] * n).weights - sizes.vectors
    assert apart == max(a + b for a, b in zip(stored, [*stored[1:], stored[0]], strict=True))
    half = sizes.need([LayerWeights("q8_0", i >= 3) for i in range(n)]).weights - sizes.vectors
    assert half == sum(sizes.layers("q8_0")[:3]) + max(stored[i] + stored[i + 1] for i in range(3, n - 1))


def test_a_budget_takes_the_best_that_fits(path: Path, sizes: Sizes) -> None:
    need_backend("cpu")
    q8, q4 = (sizes.of_format(WEIGHT_FORMATS[word][0]).total for word in SMALLER)
    least = sizes.need([LayerWeights(None, streamed=True)] * len(sizes.layers(None))).total
    expected = {
        sizes.of_format(None).total: "weights as stored fit",
        sizes.of_format(None).total - 1: "weights in q8 fit",
        q8 - 1: "weights in q4 fit",
        q4 - 1: "are read from the file at every step",
        least: "weights in q4 for 0 layers",
    }
    logits = []
    for budget, told in expected.items():
        with pytest.warns(StrategyNotice) as notices, Model(path, f"auto <{budget / 1e3:.3f}KB") as model:
            logits.append(model.forward([1, 2, 3])[0])
        assert told in str(notices[0].message)
        assert len(notices) == 1
    with pytest.raises(NotEnoughMemoryError, match="too little: with all layers read from the file it takes"):
        Model(path, f"auto <{(least - 1) / 1e3:.3f}KB")
    np.testing.assert_allclose(logits[-1], logits[0], atol=1e-4)  # all as stored
    assert 0 < np.abs(logits[1] - logits[0]).max() < np.abs(logits[2] - logits[0]).max()


def test_a_budget_keeps_a_format_that_was_asked_for(path: Path, sizes: Sizes) -> None:
    budget = f"<{sizes.need(streaming(3, 'q8_0', sizes)).total / 1e3:.3f}KB"
    with pytest.warns(StrategyNotice, match="for 3 layers, the other 4 of 7"), Model(path, f"numpy q8_0 {budget}") as model:
        kinds = {op.weight.format for op in model.plan.ops if isinstance(op, MatMul) and op.weight.name.endswith("key.weight")}
    assert kinds == {"q8_0", "bf16"}


@pytest.mark.parametrize("strategy", ["cpu", "auto", "cpu fp32", "numpy", "cpu *2 -> numpy"])
def test_too_little_memory_is_found_before_it_is_taken(
    strategy: str, path: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend("cpu")
    monkeypatch.setattr(Conversions, "each", lambda *_: pytest.fail("nothing may be made yet"))
    there = sizes.of_format(WEIGHT_FORMATS["q4"][0]).total
    device = strategy.split()[0].replace("auto", "cpu")
    for memory, fits in ((there, f'"{device} q4" needs {readable(there)}'), (there - 1, f'"{device} *0+", which reads')):
        monkeypatch.setattr(AVAILABLE, lambda memory=memory: memory)
        assert main(["run", str(path), "-p", "x", "--strategy", strategy]) == 1
        err = capsys.readouterr().err
        assert f"the model needs {readable(sizes.of_format(parse(strategy).parts[0].weight_format).total)} of memory" in err
        assert f"{readable(memory)} are available; {fits}" in err
        assert err.count("\n") == 1


def test_what_is_suggested_works(path: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    least = sizes.need([LayerWeights(None, streamed=True)] * len(sizes.layers(None))).total
    monkeypatch.setattr(AVAILABLE, lambda: least)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model(path, "numpy *0+").close()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
@pytest.mark.parametrize(("kind", "says"), [("integrated", r"the model needs .* of memory"), ("discrete", "was opened")])
def test_layers_on_a_device_count_where_it_has_no_memory_of_its_own(
    kind: str, says: str, path: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(self: WebGpuBackend, device: Found) -> None:
        raise BackendError("was opened")

    monkeypatch.setattr(WebGpuBackend, "found", lambda self: [Found("a card", kind, "1.0", "Vulkan", None)])
    monkeypatch.setattr(WebGpuBackend, "availability", lambda self: Availability(True))
    monkeypatch.setattr(WebGpuBackend, "open", opened)
    monkeypatch.setattr(AVAILABLE, lambda: sizes.of_format(None).total - 1)
    with pytest.raises(BackendError, match=says):
        Model(path, "webgpu")


def test_available_memory(tmp_path: Path) -> None:
    assert 0 < system_memory.available_memory() <= system_memory.total_memory()
    membership, mount = tmp_path / "cgroup", tmp_path / "fs"
    group = mount / "a" / "b"
    old = mount / "memory" / "c"
    group.mkdir(parents=True)
    old.mkdir(parents=True)
    membership.write_text("4:memory:/c\n1:name=x:/y\n0::/a/b\n")
    assert system_memory._of_groups(membership, mount) == []
    for folder, limit in ((group, "max"), (group.parent, "5000"), (mount, "70000")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("3000\n")
        (folder / "memory.stat").write_text("anon 2000\nfile 1000\n")
    (old / "memory.limit_in_bytes").write_text("9000\n")
    (old / "memory.usage_in_bytes").write_text("3000\n")
    (old / "memory.stat").write_text("cache 500\ntotal_cache 600\n")
    assert sorted(system_memory._of_groups(membership, mount)) == [3000, 6600, 68000]
