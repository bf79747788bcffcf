"""WebGPU: which adapter, and what its failures say."""
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from rwkv_edge_device.found import choose
from rwkv_edge_webgpu import WebGpuBackend, adapters, backend

from rwkv_edge import BackendError, Model, StrategyError, auto, registry
from rwkv_edge.backend import Availability, Batch
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from tests.conftest import need_backend
from tests.cpu.plans import deep_plan


@pytest.fixture
def gpu() -> WebGpuBackend:
    need_backend("webgpu")
    return backend


def fake(name: str, kind: str, api: str = "Vulkan") -> Any:
    class Handle:
        info = {"device": name, "description": "1.0", "vendor": "", "adapter_type": kind, "backend_type": api}  # noqa: RUF012
        limits = adapters.NEEDED
        features = frozenset[str]()

    return Handle()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """machine(adapter, ...): a machine with these."""

    def with_adapters(*handles: Any) -> None:
        monkeypatch.setattr(adapters, "enumerated", lambda: handles)

    return with_adapters


LAPTOP = (
    fake("llvmpipe", "CPU"),
    fake("Intel Iris", "IntegratedGPU"),
    fake("Radeon RX", "DiscreteGPU", "OpenGL"),
    fake("Radeon RX", "DiscreteGPU"),
)


def test_adapters_are_sorted_and_listed_once(machine: Callable[..., None]) -> None:
    machine(*LAPTOP)
    assert [(a.name, a.kind, a.api) for a in adapters.found()] == [
        ("Radeon RX", "discrete", "Vulkan"), ("Intel Iris", "integrated", "Vulkan"), ("llvmpipe", "software", "Vulkan"),
    ]


@pytest.mark.parametrize(
    ("which", "name"),
    [(None, "Radeon RX"), ("0", "Radeon RX"), ("1", "Intel Iris"), ("iris", "Intel Iris"), ("LLVM", "llvmpipe")],
)
def test_an_adapter_is_chosen(machine: Callable[..., None], which: str | None, name: str) -> None:
    machine(*LAPTOP)
    assert choose(adapters.found(), which, "adapter").name == name


@pytest.mark.parametrize("which", ["3", "nvidia"])
def test_an_adapter_that_is_not_there(machine: Callable[..., None], which: str) -> None:
    machine(*LAPTOP)
    with pytest.raises(BackendError, match=f"no WebGPU adapter is '{which}'; there are 0: Radeon RX .*, 1: Intel Iris"):
        WebGpuBackend().select(which).compile(deep_plan())


def test_a_driver_without_a_name_is_the_systems(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal's: what was found out holds until macOS is another."""
    apple = fake("Apple M2", "IntegratedGPU", "Metal")
    apple.info = apple.info | {"description": ""}
    machine(apple)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    for release in ("24.1.0", "24.2.0"):
        monkeypatch.setattr("platform.release", Mock(return_value=release))
        assert adapters.found()[0].driver == f"Darwin {release}"


def test_adapters_that_can_do_too_little_are_left_out(machine: Callable[..., None]) -> None:
    weak = fake("Old", "IntegratedGPU", "OpenGL")
    weak.limits = dict.fromkeys(adapters.NEEDED, 0)
    machine(weak)
    assert "no WebGPU adapter" in backend.availability().reason


def test_a_machine_without_adapters(machine: Callable[..., None]) -> None:
    machine()
    availability = backend.availability()
    assert not availability.available
    assert "mesa-vulkan-drivers" in availability.reason
    with pytest.raises(BackendError, match="no WebGPU adapter"):
        backend.compile(deep_plan())


def test_a_machine_without_wgpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge_device.backend.find_spec", lambda name: None)
    assert "pip install 'rwkv-edge[webgpu]'" in backend.availability().reason


def test_a_wgpu_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wgpu", None)
    monkeypatch.setattr(adapters, "enumerated", adapters.enumerated.__wrapped__)
    monkeypatch.setattr("rwkv_edge_device.backend.find_spec", lambda name: object())
    assert "wgpu cannot be used" in backend.availability().reason


def test_auto_never_takes_a_software_adapter(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("cpu"), "availability", lambda: Availability(False, "no Numba here"))
    machine(*LAPTOP[:1])
    assert auto.best().name == "numpy"
    machine(*LAPTOP)
    assert auto.best().name == "webgpu"


def test_auto_goes_on_with_a_notice(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(*LAPTOP)
    monkeypatch.setattr(registry.load("cpu"), "availability", lambda: Availability(False, "no Numba here"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise BackendError("Radeon RX is out of memory")

    monkeypatch.setattr(registry.load("webgpu"), "compile_converting", refuse)
    with pytest.warns(FallbackWarning, match="running on the numpy backend: Radeon RX is out of memory"):
        chosen = compiled(deep_plan(), parse("auto"))
    assert chosen.name == "numpy"
    chosen.executable.close()
    with pytest.raises(BackendError, match="out of memory"):
        compiled(deep_plan(), parse("webgpu"))


def test_much_data_is_written_piece_by_piece(gpu: WebGpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """wgpu keeps a copy of what is written until the queue has done it."""
    from rwkv_edge_webgpu.driver import MOST_WAITING as most

    driver: Any = gpu.open(gpu.found()[0])
    memory = driver.allocate(3 * most, "data")
    data = np.arange(3 * most // 4 - 8, dtype=np.uint32)
    queue, waiting = driver.device.queue, [0]
    write, submit = queue.write_buffer, queue.submit

    def noted(memory: Any, at: int, piece: Any) -> None:
        waiting.append(waiting[-1] + piece.nbytes)
        write(memory, at, piece)

    def done(commands: Any) -> None:
        waiting.append(0)
        submit(commands)

    monkeypatch.setattr(queue, "write_buffer", noted)
    monkeypatch.setattr(queue, "submit", done)
    for _ in range(100):
        driver.write(memory, 16, data[: most // 40])
    driver.write(memory, 16, data)
    assert most <= max(waiting) <= 2 * most
    driver.read(memory, 0, found := np.ones(data.size + 4, np.uint32))
    assert not found[:4].any()
    np.testing.assert_array_equal(found[4:], data)
    driver.close()


def test_a_backend_without_devices() -> None:
    with pytest.raises(StrategyError, match='strategy "numpy:1", character 7: numpy has no devices'):
        compiled(deep_plan(), parse("numpy:1"))


def test_out_of_memory(gpu: WebGpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    import wgpu

    def full(*_: Any, **__: Any) -> Any:
        raise wgpu.GPUOutOfMemoryError("no memory left")

    other: Any = gpu.compile(deep_plan())
    monkeypatch.setattr(type(other.driver.device), "create_buffer", full)
    with pytest.raises(BackendError, match=r"is out of memory: it has no .* MB for vectors"):
        gpu.compile(deep_plan())


def test_a_device_that_is_lost(gpu: WebGpuBackend) -> None:
    plan = deep_plan()
    executable: Any = gpu.compile(plan)
    state = np.zeros(plan.state_size, np.float32)
    batch = Batch(np.array([1, 2], np.int32), [2], [state], np.array([1], np.int32))
    executable.run(batch)
    executable.driver.device.destroy()
    with pytest.raises(BackendError, match="was lost; open the model again"):
        executable.run(batch)
    executable.close()
    with pytest.raises(BackendError, match="the state was lost"):
        executable.fetch(state)
    again = gpu.compile(plan)
    again.run(batch)
    again.close()


def test_models_in_two_threads(tiny_pth: Callable[[str], Path]) -> None:
    """They share the adapter, and take turns."""
    need_backend("webgpu")

    def generate(version: str) -> tuple[Any, Any]:
        with Model(tiny_pth(version), "webgpu") as ours, Model(tiny_pth(version), "numpy") as theirs:
            state, same = ours.new_state(), theirs.new_state()
            steps = [(ours.forward([token], state)[0], theirs.forward([token], same)[0]) for token in range(1, 40)]
            return np.stack([a for a, _ in steps]), np.stack([b for _, b in steps])

    with ThreadPoolExecutor(2) as pool:
        for actual, expected in pool.map(generate, ["7", "4"]):
            np.testing.assert_allclose(actual, expected, atol=1e-4)
