"""Fixtures that several rooms' tests share."""
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from rwkv_edge import auto, registry
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import Checkpoint, tiny

# Machines differ in speed by a factor of a hundred (an emulated Pi): a slow example is no failure.
settings.register_profile("rwkv_edge", deadline=None, derandomize=True)
settings.load_profile("rwkv_edge")


MOST_PROCESSES = 4  # each compiles a device's kernels for itself, and keeps them: up to 3 GB


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for each core runs the whole suite; a part of it is done sooner than they would start."""
    if config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


def need_backend(name: str) -> None:
    """Skips where the backend cannot work; fails instead where RWKV_EDGE_NEED names it, as in CI."""
    availability = registry.availability(name)
    if not availability.available:
        (pytest.fail if name in os.environ.get("RWKV_EDGE_NEED", "").split(",") else pytest.skip)(availability.reason)


INSTALLED = auto.ranked()  # also somebody else's: see tests/auto/test_another_backend.py
DEVICE_BACKENDS = tuple(name for name, traits in INSTALLED.items() if traits.needs_device)


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """Also at the programs that tests start and interrupt: what a script runs in the background inherits that none does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def auto_as_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes is the same everywhere: nothing is measured, and no user's wish counts."""
    monkeypatch.setattr("rwkv_edge.auto.order.by_speed", lambda anew=False: list(auto.ranked()))
    monkeypatch.delenv("RWKV_EDGE_STRATEGY", raising=False)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices compute is the same everywhere: no trial makes some of them round inputs (tests/device/test_features.py)."""
    monkeypatch.setattr("rwkv_edge_device.trial.as_is_faster", lambda compiler, device, *_: device.without("packed_dot"))


@pytest.fixture(params=INSTALLED)
def backend_name(request: pytest.FixtureRequest) -> str:
    """Each installed backend that can work on this machine."""
    name: str = request.param
    need_backend(name)
    return name


@pytest.fixture(scope="session")
def tiny_pth(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_pth(version): the path of that version's tiny checkpoint as a float32 .pth."""
    folder = tmp_path_factory.mktemp("tiny")

    def path(version: str) -> Path:
        target = folder / f"tiny-{version}.pth"
        if not target.exists():
            write_pth(target, tiny(version), dtype="f32")
        return target

    return path


@pytest.fixture
def pth_of(tmp_path: Path) -> Callable[[Checkpoint], Path]:
    """pth_of(checkpoint): a .pth of any weights."""

    def path(checkpoint: Checkpoint) -> Path:
        target = tmp_path / "model.pth"
        write_pth(target, checkpoint, dtype="f32")
        return target

    return path
