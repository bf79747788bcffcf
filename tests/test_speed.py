"""`auto` goes by what was measured, and measures once."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge import BackendError, Model, StrategyError, findings, registry, speed, user_cache
from rwkv_edge.backend import Availability, Device
from rwkv_edge.cli import main

order = speed.order  # before a fixture of all tests puts another in its place


class Fast:
    """A backend that is as fast as it says: bytes a second, or why it does not run."""

    def __init__(self, name: str, figure: float | str, automatic: bool = True, driver: str = "1") -> None:
        self.name, self.figure, self.automatic, self.driver = name, figure, automatic, driver
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
        monkeypatch.setattr(registry, "load", lambda name: known[name])
        return order(list(known), anew)

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


def test_a_new_driver_is_measured(machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Fast("cpu", 20e9)
    assert machine(cpu, Fast("webgpu", 10e9)) == ["cpu", "webgpu"]
    better = Fast("webgpu", 30e9, driver="2")
    assert machine(cpu, better) == ["cpu", "webgpu"]  # not seen yet
    monkeypatch.setattr(speed, "_surroundings", lambda: ("another file in /usr/share/vulkan/icd.d",))
    assert machine(cpu, better) == ["webgpu", "cpu"]
    assert cpu.measured == 1


@pytest.mark.parametrize("known", ["cpu", ["cpu"], ["cpu", "cpu"], 3.0])
def test_an_order_that_does_not_fit_is_made_anew(machine: Callable[..., list[str]], known: Any) -> None:
    backends = Fast("cpu", 1e9), Fast("webgpu", 2e9)
    findings.remember("order", known, "cpu", "webgpu", *speed._surroundings())
    assert machine(*backends) == ["webgpu", "cpu"]


def test_the_surroundings_are_those_of_a_moment_ago() -> None:
    assert speed._surroundings() == speed._surroundings()


def test_numpy_is_measured_too() -> None:
    assert speed.measure(registry.load("numpy")) > 1e6


def test_backends_with_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    points = {name: point for name, point in registry.installed().items() if name in ("cpu", "numpy")}
    monkeypatch.setattr(registry, "installed", lambda: points)
    monkeypatch.setattr(speed, "order", order)

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
