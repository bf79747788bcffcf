"""Somebody else's backend is a pip install: found by its entry point, and known by what it says of itself."""
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import BackendError, Model, StrategyError, auto, registry
from rwkv_edge.auto import order, speed
from rwkv_edge.cli import main
from rwkv_edge.machine import user_cache
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from rwkv_edge.weights.samples import random_matrix
from tests.cpu.plans import batch, deep_plan

by_speed = order.by_speed  # before a fixture of all tests puts another in its place

FIFTH = """
from rwkv_edge.backend import Traits
from rwkv_edge_numpy import NumpyBackend

class Fifth(NumpyBackend):
    name = "fifth"
    traits = Traits(rank=40)

backend = Fifth()
"""
NPU = """
from rwkv_edge.backend import Traits
from rwkv_edge.plan import Embed, Lerp, MatMul
from rwkv_edge_numpy import NumpyBackend

class Npu(NumpyBackend):
    '''Multiplies floats only, in rows, of widths that are multiples of 32; has never heard of Lerp.'''
    name = "npu"
    traits = Traits(rank=1, needs_device=True)

    def supports(self, op):
        if not isinstance(op, MatMul):
            return not isinstance(op, Lerp)
        data = op.weight.data
        in_rows = data.strides[1] == data.itemsize
        return op.weight.format in ("f16", "f32") and in_rows and all(n % 32 == 0 for n in op.weight.shape)

backend = Npu()
"""
BROKEN = {
    "does not import": ("import no_such_driver", "No module named 'no_such_driver'"),
    "fails when imported": ("1 / 0", "ZeroDivisionError"),
    "ends the process when imported": ("raise SystemExit(3)", "cannot be imported: SystemExit"),
    "is no backend": ("backend = 3", "broken_backend:backend is not a rwkv_edge.backend.Backend"),
    "fails when asked": (
        FIFTH.replace("backend =", "Fifth.availability = lambda self: 1 / 0\nbackend ="),
        "it fails when asked whether it can: ZeroDivisionError",
    ),
    "does not answer": (FIFTH.replace("backend =", "Fifth.availability = lambda self: None\nbackend ="), "but None"),
    "has traits that fail": (
        FIFTH.replace("backend =", "Fifth.traits = property(lambda self: 1 / 0)\nbackend ="),
        "ZeroDivisionError",
    ),
    "has no traits": (FIFTH.replace("backend =", "Fifth.traits = None\nbackend ="), "is not a rwkv_edge.backend.Backend"),
    "has a rank that is none": (
        FIFTH.replace("backend =", "Fifth.traits = Traits(rank='9')\nbackend ="),
        "is not a rwkv_edge.backend.Backend",
    ),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages on the path, and findings of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path / "cache"))
    return folder


@pytest.fixture
def install(site: Path) -> Iterator[Callable[[str, str], None]]:
    """install(name, source): a distribution with a backend of that name is there, as pip would leave it."""
    modules: list[str] = []

    def with_package(name: str, source: str) -> None:
        modules.append(f"{name}_backend")
        (site / f"{name}_backend.py").write_text(source)
        info = site / f"{name}_backend-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {name}_backend:backend\n")
        importlib.invalidate_caches()

    yield with_package
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def fifth(install: Callable[[str, str], None]) -> None:
    install("fifth", FIFTH)


@pytest.fixture
def npu(install: Callable[[str, str], None]) -> None:
    install("npu", NPU)


def figures(monkeypatch: pytest.MonkeyPatch, **speeds: float) -> None:
    """`auto` measures, and finds these; any other backend is slow."""
    monkeypatch.setattr(order, "by_speed", by_speed)
    monkeypatch.setattr(speed, "measure", lambda backend: speeds.get(backend.name, 1e6))


def logits(path: Path, strategy: str | None) -> Any:
    with Model(path, strategy) as model:
        return model.forward([1, 2, 3], full=True)[0]


@pytest.mark.usefixtures("fifth")
@pytest.mark.parametrize(("strategy", "name"), [("fifth", "fifth"), ("fifth q8_0 *2 -> numpy", "fifth -> numpy")])
def test_a_strategy_names_it(strategy: str, name: str, tiny_pth: Callable[[str], Path]) -> None:
    with Model(tiny_pth("7"), strategy) as model:
        assert model.backend_name == name
    expected = logits(tiny_pth("7"), strategy.replace("fifth", "numpy"))
    np.testing.assert_allclose(logits(tiny_pth("7"), strategy), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("fifth")
def test_auto_takes_it_where_it_is_fastest(monkeypatch: pytest.MonkeyPatch, tiny_pth: Callable[[str], Path]) -> None:
    figures(monkeypatch, fifth=9e9, cpu=1e9)
    with Model(tiny_pth("7")) as model:
        assert model.backend_name == "fifth"


@pytest.mark.usefixtures("fifth")
def test_auto_does_not_take_it_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    figures(monkeypatch, fifth=1e9, cpu=9e9)
    assert [backend.name for backend in auto.candidates()] == ["cpu", "fifth", "numpy"]


def test_installing_it_is_seen(
    monkeypatch: pytest.MonkeyPatch, install: Callable[[str, str], None], site: Path
) -> None:
    """Though the order without it is remembered."""
    figures(monkeypatch, fifth=9e9, cpu=1e9)
    assert "fifth" not in order.by_speed()
    install("fifth", FIFTH)
    assert order.by_speed()[0] == "fifth"


@pytest.mark.usefixtures("fifth")
def test_words_are_those_of_its_precisions() -> None:
    assert parse("fifth fp32").parts[0].precision == "fp32"
    with pytest.raises(StrategyError, match="fifth has no format 'fp64'"):
        parse("fifth fp64")


def test_it_may_compute_in_fp64(install: Callable[[str, str], None], tiny_pth: Callable[[str], Path]) -> None:
    install("fifth", FIFTH.replace("rank=40", 'precisions=("fp32", "fp64")'))
    assert logits(tiny_pth("7"), "fifth fp64").dtype == np.float64


def test_it_may_stand_in_for_another(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tiny_pth: Callable[[str], Path]
) -> None:
    install("fifth", FIFTH.replace("rank=40", 'stands_in_for=("cpu",)'))
    monkeypatch.setattr("rwkv_edge_cpu.find_spec", lambda name: None)
    with pytest.warns(FallbackWarning, match="^cpu is fifth on this machine: numba and llvmlite are not installed"):
        logits(tiny_pth("7"), "cpu fp32")


@pytest.mark.usefixtures("fifth")
def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(listed) == ["cpu", "webgpu", "opencl", "fifth", "numpy"]
    assert listed["fifth"]["automatic"]


@pytest.mark.usefixtures("fifth")
def test_the_tests_of_ops_take_it_up(site: Path) -> None:
    """Whatever is installed is tested: no list names it."""
    chosen = "fifth and (test_row_ops or test_wkv4 or test_transposed or test_chosen)"
    folder = Path(__file__).parents[1] / "ops"
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, str(folder / "test_ops.py")]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_one_is_no_trouble(
    how: str,
    install: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    tiny_pth: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For `auto`, for what is listed, for other strategies; who names it is told."""
    source, reason = BROKEN[how]
    install("broken", source)
    figures(monkeypatch, cpu=9e9)
    assert auto.best().name == "cpu"
    assert main(["backends"]) == 0
    assert reason in capsys.readouterr().out
    logits(tiny_pth("7"), "numpy fp32")
    with pytest.raises(BackendError, match="backend 'broken'.*" + reason):
        Model(tiny_pth("7"), "broken fp32")


def test_one_that_cannot_be_measured_is_no_trouble(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("fifth", FIFTH.replace("backend =", "Fifth.devices = lambda self: 1 / 0\nbackend ="))
    figures(monkeypatch, cpu=1e5)
    assert auto.best().name == "cpu"
    assert main(["backends"]) == 0
    assert "fifth   not available: ZeroDivisionError" in capsys.readouterr().out


def products(*shapes: tuple[int, int], format: str = "f32", transposed: bool = False) -> Plan:
    """Rows of 64 numbers through matrices of these shapes."""
    rng = np.random.default_rng(0)
    p = PlanBuilder()
    x = p.embed(random_matrix(rng, "f32", 11, 64))
    for i, (n_out, n_in) in enumerate(shapes):
        weight = random_matrix(rng, format, *((n_in, n_out) if transposed else (n_out, n_in)))
        weight = weight.renamed(f"blocks.{i}.att.key.weight")
        x = p.matmul(x, weight.transpose() if transposed else weight)
    return p.finish(p.select_outputs(x))


@pytest.mark.usefixtures("npu")
@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (deep_plan(1), "the npu backend has no kernel for Lerp$"),
        (products((64, 64), (40, 64)), r"the npu backend has no kernel for MatMul of blocks.1.att.key.weight, \(40, 64\)$"),
    ],
)
def test_what_it_does_not_take_is_refused_and_auto_goes_on(plan: Plan, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        compiled(plan, parse("npu"))
    with pytest.warns(FallbackWarning, match=f"running on the cpu backend: {reason}"):
        chosen = compiled(plan, parse("auto"))
    assert chosen.name == "cpu"
    chosen.executable.close()


@pytest.mark.usefixtures("npu")
def test_it_is_refused_before_anything_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge.convert.conversions.Conversion.begin", lambda *_: pytest.fail("converts"))
    with pytest.raises(BackendError, match="Lerp"):
        compiled(deep_plan(1), parse("npu fp16"))


@pytest.mark.usefixtures("npu")
@pytest.mark.parametrize(
    ("format", "strategy", "given"),
    [("q8_0", "npu", "f32"), ("f16", "npu", "f16"), ("f32", "npu fp16", "f16"), ("f32", "npu q8_0", "f32")],
)
def test_matrices_come_in_a_form_that_it_takes(format: str, strategy: str, given: str) -> None:
    chosen = compiled(products((64, 64), (32, 64), format=format), parse(strategy))
    assert {op.weight.format for op in chosen.plan.ops[1:3]} == {given}  # type: ignore[union-attr]


@pytest.mark.usefixtures("npu")
@pytest.mark.parametrize("format", ["f32", "f16"])
def test_a_transposed_matrix_is_laid_out_for_it(format: str) -> None:
    plan = products((64, 64), (32, 64), format=format, transposed=True)
    chosen = compiled(plan, parse("npu"))
    (expected,) = registry.definition().compile(plan).run(batch(plan))
    (found,) = chosen.executable.run(batch(plan))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert all(registry.load("npu").supports(op) for op in chosen.plan.ops)


@pytest.mark.usefixtures("npu")
def test_cuda_is_it(tiny_pth: Callable[[str], Path]) -> None:
    """What strategies for other engines mean: a device, whoever it is from."""
    with pytest.warns(FallbackWarning, match="cuda is npu on this machine"), pytest.raises(BackendError, match="Lerp"):
        Model(tiny_pth("6"), "cuda fp16")
