"""`auto` goes by what was measured, and measures once."""
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from rwkv_edge import BackendError, Model, StrategyError, registry
from rwkv_edge.auto import order, speed
from rwkv_edge.backend import Availability, Device, Traits
from rwkv_edge.cli import main
from rwkv_edge.machine import findings, user_cache

by_speed = order.by_speed  # before a fixture of all tests puts another in its place


class Fast:
    """A backend that is as fast as it says: bytes a second, or why it does not run."""

    def __init__(
        self, name: str, figure: float | str, automatic: bool = True, driver: str = "1", traits: Traits | None = None
    ) -> None:
        self.name, self.figure, self.automatic, self.driver = name, figure, automatic, driver
        self.traits = traits or Traits()
        self.measured = 0

    def availability(self) -> Availability:
        return Availability(True, automatic=self.automatic)

    def devices(self) -> list[Device]:
        return [Device(f"{self.name}'s", "other", driver=self.driver)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """machine(backend, ...): the order on a machine with these."""
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))

    def figure(backend: Any) -> float:
        backend.measured += 1
        if isinstance(backend.figure, str):
            raise BackendError(backend.figure)
        return float(backend.figure)

    monkeypatch.setattr(speed, "measure", figure)

    def with_backends(*backends: Fast, anew: bool = False) -> list[str]:
        known = {backend.name: backend for backend in backends}
        monkeypatch.setattr(registry, "installed", lambda: known)
        monkeypatch.setattr(registry, "load", lambda name: known[name])
        return by_speed(anew)

    return with_backends


def test_the_fastest_comes_first_and_is_measured_once(machine: Callable[..., list[str]]) -> None:
    backends = Fast("cpu", 20e9), Fast("webgpu", 400e9), Fast("opencl", 300e9)
    for _ in range(2):
        assert machine(*backends) == ["webgpu", "opencl", "cpu"]
    assert [backend.measured for backend in backends] == [1, 1, 1]


def test_nothing_is_measured_without_a_choice(machine: Callable[..., list[str]]) -> None:
    backends = Fast("cpu", 20e9), Fast("webgpu", 400e9, automatic=False)
    assert machine(*backends) == ["cpu", "webgpu"]
    assert [backend.measured for backend in backends] == [0, 0]


def test_what_does_not_run_stands_last(machine: Callable[..., list[str]]) -> None:
    assert machine(Fast("webgpu", "out of memory"), Fast("opencl", 1e9), Fast("cpu", 2e9)) == ["cpu", "opencl", "webgpu"]


def test_a_last_resort_stands_behind_what_does_not_run_and_is_not_measured(machine: Callable[..., list[str]]) -> None:
    numpy = Fast("numpy", 9e9, traits=Traits(last_resort=True))
    assert machine(numpy, Fast("webgpu", "out of memory"), Fast("cpu", 2e9)) == ["cpu", "webgpu", "numpy"]
    assert numpy.measured == 0


def test_rank_decides_where_nothing_is_measured(machine: Callable[..., list[str]]) -> None:
    ranks = {"a": 30, "b": 10, "c": 20}
    backends = [Fast(name, 1e9, automatic=name == "c", traits=Traits(rank)) for name, rank in ranks.items()]
    assert machine(*backends) == ["b", "c", "a"]


def test_what_is_remembered_loads_no_backend(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine(Fast("cpu", 1e9), Fast("webgpu", 2e9)) == ["webgpu", "cpu"]
    monkeypatch.setattr(registry, "load", lambda name: pytest.fail(f"{name} is loaded"))
    assert by_speed() == ["webgpu", "cpu"]


def test_a_new_version_is_measured(machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels may be faster."""
    assert machine(Fast("cpu", 20e9), Fast("webgpu", 10e9)) == ["cpu", "webgpu"]
    monkeypatch.setattr("rwkv_edge.auto.speed.__version__", "another")
    monkeypatch.setattr(order, "_surroundings", lambda: ("site-packages of another time",))
    assert machine(Fast("cpu", 20e9), Fast("webgpu", 30e9)) == ["webgpu", "cpu"]


def test_a_new_driver_is_measured(machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Fast("cpu", 20e9)
    assert machine(cpu, Fast("webgpu", 10e9)) == ["cpu", "webgpu"]
    better = Fast("webgpu", 30e9, driver="2")
    assert machine(cpu, better) == ["cpu", "webgpu"]  # not seen yet
    monkeypatch.setattr(order, "_surroundings", lambda: ("another file in /usr/share/vulkan/icd.d",))
    assert machine(cpu, better) == ["webgpu", "cpu"]
    assert cpu.measured == 1


@pytest.mark.parametrize("setting", ["RUSTICL_ENABLE", "VK_DRIVER_FILES"])
def test_another_setting_of_drivers_is_seen(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    assert machine(Fast("cpu", 20e9), Fast("opencl", 0, automatic=False)) == ["cpu", "opencl"]
    monkeypatch.setenv(setting, "iris")
    assert machine(Fast("cpu", 20e9), Fast("opencl", 30e9)) == ["opencl", "cpu"]


def test_a_driver_that_ends_the_process_is_met_once(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others take what is named first, unless the one that measures may still be at it."""
    ends = "order._automatic = lambda _: os._exit(9); order.by_speed()"
    points = "registry.installed = lambda: {'cpu': None, 'webgpu': None}"
    program = f"import os; from rwkv_edge import registry; from rwkv_edge.auto import order; {points}; {ends}"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    backends, now = (Fast("cpu", 20e9), Fast("webgpu", 30e9)), time.time()
    monkeypatch.setattr(time, "time", lambda: now + order.PATIENCE + 1)
    assert machine(*backends) == ["cpu", "webgpu"]
    assert "cpu comes first; `rwkv-edge backends --measure` tries again" in caplog.text
    monkeypatch.setattr(time, "time", lambda: now + 1)
    assert machine(*backends) == ["webgpu", "cpu"]
    monkeypatch.setattr(time, "time", lambda: now + order.PATIENCE + 1)
    assert machine(*backends) == ["webgpu", "cpu"]


def test_what_a_driver_ended_is_tried_again_when_asked_for(machine: Callable[..., list[str]]) -> None:
    findings.remember("order", 1.0, "cpu", "webgpu", *order._surroundings())
    backends = Fast("cpu", 20e9), Fast("webgpu", 30e9)
    assert machine(*backends) == ["cpu", "webgpu"]
    assert machine(*backends, anew=True) == ["webgpu", "cpu"]
    assert machine(*backends) == ["webgpu", "cpu"]


def test_whoever_interrupts_measures_again(machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Fast("cpu", 20e9), Fast("webgpu", 30e9)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(backends[1], "availability", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            machine(*backends)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + order.PATIENCE + 1)
    assert machine(*backends) == ["webgpu", "cpu"]


@pytest.mark.parametrize("known", ["cpu", ["cpu"], ["cpu", "cpu"], 3])
def test_an_order_that_does_not_fit_is_made_anew(machine: Callable[..., list[str]], known: Any) -> None:
    backends = Fast("cpu", 1e9), Fast("webgpu", 2e9)
    findings.remember("order", known, "cpu", "webgpu", *order._surroundings())
    assert machine(*backends) == ["webgpu", "cpu"]


def test_the_surroundings_are_those_of_a_moment_ago() -> None:
    assert order._surroundings() == order._surroundings()


def test_numpy_is_measured_too() -> None:
    assert speed.measure(registry.load("numpy")) > 1e6


def test_backends_with_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    points = {name: point for name, point in registry.installed().items() if name in ("cpu", "numpy")}
    monkeypatch.setattr(registry, "installed", lambda: points)
    monkeypatch.setattr(order, "by_speed", by_speed)

    def figure(backend: Any) -> float:
        if backend.name == "numpy":
            raise BackendError("numpy is tired")
        return 21.5e9

    monkeypatch.setattr(speed, "measure", figure)
    assert main(["backends", "--measure"]) == 0
    out = capsys.readouterr().out
    assert ", 21.5 GB/s of weights)" in out
    assert ", numpy is tired)" in out
    assert main(["backends", "--measure", "--json"]) == 0
    assert [entry["speeds"] for entry in json.loads(capsys.readouterr().out)] == [[21.5e9], ["numpy is tired"]]


def test_the_environment_has_the_default(monkeypatch: pytest.MonkeyPatch, tiny_pth: Callable[[str], Path]) -> None:
    monkeypatch.setenv("RWKV_EDGE_STRATEGY", "numpy fp32")
    with Model(tiny_pth("7")) as model:
        assert model.backend_name == "numpy"
    monkeypatch.setenv("RWKV_EDGE_STRATEGY", "nump")
    with pytest.raises(StrategyError, match='RWKV_EDGE_STRATEGY: strategy "nump", character 1: no device'):
        Model(tiny_pth("7"))
    with Model(tiny_pth("7"), "numpy") as model:  # what is said counts
        model.forward([1])
