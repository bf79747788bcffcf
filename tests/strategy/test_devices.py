"""Which backend a name means here, what `rwkv-edge backends` lists, and what it says of those that are missing."""
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rwkv_edge_opencl import OpenClBackend
from rwkv_edge_webgpu import WebGpuBackend

from rwkv_edge import BackendError, Model, StrategyError, registry
from rwkv_edge.backend import Availability, Device, Traits
from rwkv_edge.cli import main
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from rwkv_edge.strategy.split import SplitExecutable
from tests.conftest import need_backend
from tests.cpu.plans import deep_plan


@pytest.fixture
def with_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """with_backend(name, backend or the error of its import): one more is installed."""
    points, load = registry.installed(), registry.load

    def install(name: str, backend: Any) -> None:
        point = EntryPoint(name, f"{name}_package:backend", registry.GROUP)
        monkeypatch.setattr(registry, "installed", lambda: points | {name: point})
        monkeypatch.setattr(registry, "load", lambda wanted: backend if wanted == name else load(wanted))

    return install


class Missing:
    name = "opencl"
    traits = Traits()

    def availability(self) -> Availability:
        return Availability(False, "pyopencl is not installed: pip install 'rwkv-edge[opencl]'")


class Gpu:
    name = "gpu"
    traits = Traits()

    def availability(self) -> Availability:
        return Availability(True)

    def devices(self) -> list[Device]:
        return [Device("First", "discrete", 8_000_000_000), Device("Second", "integrated")]


def test_a_backend_that_is_not_installed_says_how_to(
    with_backend: Callable[..., None], tiny_pth: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with_backend("opencl", Missing())
    assert main(["run", str(tiny_pth("7")), "-p", "x", "--strategy", "opencl:0 q4_0"]) == 1
    assert "pyopencl is not installed: pip install 'rwkv-edge[opencl]'" in capsys.readouterr().err
    assert main(["backends"]) == 0
    assert "opencl  not available: pyopencl is not installed: pip install 'rwkv-edge[opencl]'" in capsys.readouterr().out


def test_a_package_that_does_not_import_says_which_extra_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("webgpu", "no_such_package:backend", registry.GROUP)
    vars(point)["dist"] = distribution("rwkv-edge")
    monkeypatch.setattr(registry, "installed", lambda: {"webgpu": point})
    with pytest.raises(BackendError, match=r"No module named 'no_such_package': pip install 'rwkv-edge\[webgpu\]'"):
        registry.load("webgpu")


def test_webgpu_without_its_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rwkv_edge_device.backend.find_spec", lambda name: None)
    assert main(["backends"]) == 0
    assert "webgpu  not available: wgpu is not installed: pip install 'rwkv-edge[webgpu]'" in capsys.readouterr().out


def test_backends_are_listed_with_their_devices(
    with_backend: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_backend("gpu", Gpu())
    assert main(["backends"]) == 0
    out = capsys.readouterr().out
    assert "gpu     gpu:0 is First (discrete, 8.00 GB of memory)\n" in out
    assert "        gpu:1 is Second (integrated, its driver does not tell its memory)\n" in out
    assert "NumPy" in out
    assert '"auto" takes ' in out


def test_backends_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(listed) == ["cpu", "webgpu", "opencl", "numpy"]
    assert listed["numpy"]["available"]
    (device,) = listed["numpy"]["devices"]
    assert device["kind"] == "cpu"
    assert device["memory"] > 1 << 20


@pytest.mark.parametrize("strategy", ["cuda fp16", "cuda:0 fp16i8 *2 -> cpu fp32", "mps fp32", "dml fp16 *1+"])
def test_devices_of_other_engines_are_what_this_machine_has(strategy: str, tiny_pth: Callable[[str], Path]) -> None:
    with pytest.warns(FallbackWarning, match=f"{strategy[:2]}.* is .* on this machine") as notices:
        model = Model(tiny_pth("7"), strategy)
    assert len([notice for notice in notices if issubclass(notice.category, FallbackWarning)]) == 1
    with model:
        model.forward([1, 2])


def test_cuda_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tiny_pth: Callable[[str], Path]) -> None:
    need_backend("webgpu")
    backend = registry.load("webgpu")
    monkeypatch.setattr(type(backend), "availability", lambda self: Availability(True))
    with pytest.warns(FallbackWarning, match="cuda is webgpu on this machine"), Model(tiny_pth("7"), "cuda fp32") as model:
        assert model.backend_name == "webgpu"


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board without it, and without a GPU."""
    monkeypatch.setattr("rwkv_edge_cpu.find_spec", lambda name: None)
    monkeypatch.setattr(OpenClBackend, "availability", lambda self: Availability(False, "no OpenCL here"))
    monkeypatch.setattr(WebGpuBackend, "availability", lambda self: Availability(False, "no WebGPU here"))


@pytest.mark.usefixtures("no_numba")
@pytest.mark.filterwarnings("ignore:within 1.00 GB")
@pytest.mark.parametrize(
    "strategy", ["cpu", "cpu fp32", "cpu int8", "cpu q4_k", "cpu *1+", "cpu *1 -> numpy", "cpu *1 -> cpu q8_0", "cpu <1GB"]
)
def test_where_numba_is_missing_cpu_is_numpy(strategy: str, tiny_pth: Callable[[str], Path]) -> None:
    """Said once, with the reason; the numbers are those of the numpy backend in the same formats."""
    told = "^cpu is numpy on this machine: numba and llvmlite are not installed: pip install numba$"
    with pytest.warns(FallbackWarning, match=told) as notices:
        model = Model(tiny_pth("7"), strategy)
    with model:
        assert model.backend_name == "numpy"
        logits, _ = model.forward([1, 2])
    assert len([notice for notice in notices if issubclass(notice.category, FallbackWarning)]) == 1
    with Model(tiny_pth("7"), strategy.replace("cpu", "numpy")) as model:
        assert np.array_equal(model.forward([1, 2])[0], logits)


@pytest.mark.usefixtures("no_numba")
def test_where_numba_is_missing_cuda_and_cpu_are_one_backend(tiny_pth: Callable[[str], Path]) -> None:
    told = "^cuda is numpy on this machine; cpu is numpy on this machine: numba"
    with pytest.warns(FallbackWarning, match=told):
        model = Model(tiny_pth("7"), "cuda:0 fp16i8 *2 -> cpu fp32")
    with model:
        assert model.backend_name == "numpy"
        assert not isinstance(model._executable, SplitExecutable)


@pytest.mark.usefixtures("no_numba")
def test_what_is_wrong_with_cpu_is_so_without_numba() -> None:
    with pytest.raises(StrategyError, match='strategy "cpu:1 fp32", character 5: cpu has no devices to choose from'):
        compiled(deep_plan(), parse("cpu:1 fp32"))


def test_a_board_of_32_bits_says_so(monkeypatch: pytest.MonkeyPatch, tiny_pth: Callable[[str], Path]) -> None:
    monkeypatch.setattr("rwkv_edge_cpu.sys", SimpleNamespace(maxsize=2**31 - 1))
    with pytest.warns(FallbackWarning, match="^cpu is numpy on this machine: Numba has no 32-bit version"):
        Model(tiny_pth("7"), "cpu fp32").close()
