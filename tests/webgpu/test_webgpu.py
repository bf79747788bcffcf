"""WebGPU: which adapter, what its failures say, and states that move to other backends and back."""
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rwkv_edge_webgpu import WebGpuBackend, adapters, backend

from rwkv_edge import BackendError, Model, State, StrategyError, registry, user_cache
from rwkv_edge.backend import Availability, Batch
from rwkv_edge.device import self_test
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import need_backend
from tests.cpu.plans import deep_plan
from tests.device.test_self_test import rounded


@pytest.fixture
def gpu() -> WebGpuBackend:
    need_backend("webgpu")
    return backend


@pytest.fixture
def model(gpu: WebGpuBackend, tiny_pth: Callable[[str], Path]) -> Iterator[Model]:
    with Model(tiny_pth("7"), "webgpu") as model:
        yield model


def fake(name: str, kind: str, api: str = "Vulkan") -> Any:
    class Handle:
        info = {"device": name, "description": "1.0", "vendor": "", "adapter_type": kind, "backend_type": api}  # noqa: RUF012
        limits = adapters.NEEDED

    return Handle()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """machine(adapter, ...): a machine with these."""
    wgpu = pytest.importorskip("wgpu")

    def with_adapters(*handles: Any) -> None:
        monkeypatch.setattr(type(wgpu.gpu), "enumerate_adapters_sync", lambda self: list(handles))

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
    assert adapters.choose(adapters.found(), which).name == name


@pytest.mark.parametrize("which", ["3", "nvidia"])
def test_an_adapter_that_is_not_there(machine: Callable[..., None], which: str) -> None:
    machine(*LAPTOP)
    with pytest.raises(BackendError, match=f"no WebGPU adapter is '{which}'; there are 0: Radeon RX .*, 1: Intel Iris"):
        WebGpuBackend().select(which).compile(deep_plan())


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
    monkeypatch.setattr("rwkv_edge_webgpu.find_spec", lambda name: None)
    assert "pip install 'rwkv-edge[webgpu]'" in backend.availability().reason


def test_a_wgpu_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wgpu", None)
    monkeypatch.setattr("rwkv_edge_webgpu.find_spec", lambda name: object())
    assert "wgpu cannot be used" in backend.availability().reason


def test_auto_never_takes_a_software_adapter(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("cpu"), "availability", lambda: Availability(False, "no Numba here"))
    machine(*LAPTOP[:1])
    assert registry.best().name == "numpy"
    machine(*LAPTOP)
    assert registry.best().name == "webgpu"


def test_auto_goes_on_with_a_notice(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(*LAPTOP)
    monkeypatch.setattr(registry.load("cpu"), "availability", lambda: Availability(False, "no Numba here"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise BackendError("Radeon RX is out of memory")

    monkeypatch.setattr(registry.load("webgpu"), "compile", refuse)
    with pytest.warns(FallbackWarning, match="running on the numpy backend: Radeon RX is out of memory"):
        chosen = compiled(deep_plan(), parse("auto"))
    assert chosen.name == "numpy"
    chosen.executable.close()
    with pytest.raises(BackendError, match="out of memory"):
        compiled(deep_plan(), parse("webgpu"))


def test_a_backend_without_devices() -> None:
    with pytest.raises(StrategyError, match="numpy has no devices"):
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


def test_an_adapter_that_computes_wrongly_is_refused_and_remembered(
    gpu: WebGpuBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rwkv_edge_webgpu import opened, source

    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    monkeypatch.setattr(opened, "assemble", lambda kernel: source.assemble(kernel).replace("removed * kkas", "kkas"))
    with pytest.raises(BackendError, match="computes wrongly"):
        gpu.compile(deep_plan())
    monkeypatch.undo()
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: pytest.fail("tested again"))
    with pytest.raises(BackendError, match="computes wrongly"):
        gpu.compile(deep_plan())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told(model: Model) -> None:
    _, state = model.forward([1, 2])
    child = os.fork()
    if child == 0:
        try:
            model.forward([3], state)
        except BackendError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sequence_moves_between_backends(gpu: WebGpuBackend, version: str, tiny_pth: Callable[[str], Path]) -> None:
    path, tokens = tiny_pth(version), [5, 9, 20, 31, 7, 8, 90, 3]
    with Model(path, "webgpu") as here, Model(path, "numpy") as there:
        expected, truth = there.forward(tokens)
        _, state = here.forward(tokens[:3])
        _, state = there.forward(tokens[3:5], state)
        _, state = here.forward([tokens[5]], state)
        _, state = here.forward([tokens[6]], state)
        logits, state = there.forward([tokens[7]], state)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        np.testing.assert_allclose(state.data, truth.data, atol=1e-4)


def test_copies_files_and_views_hold_the_true_numbers(model: Model, tmp_path: Path) -> None:
    _, state = model.forward([1, 2, 3])
    branch, kept = state.copy(), state.astype(np.float64)
    state.save(tmp_path / "one")
    expected, _ = model.forward([4], state)
    assert np.allclose(model.forward([4], branch)[0], expected)
    assert np.allclose(model.forward([4], State.load(tmp_path / "one"))[0], expected)
    assert np.allclose(model.forward([4], kept.astype(np.float32))[0], expected)
    assert np.allclose(branch.data, state.data)
    state["blocks.0.att.wkv"][:] = 0.5  # the host's numbers count from here
    other = model.new_state()
    other.data = state.data.copy()
    assert np.allclose(model.forward([5], state)[0], model.forward([5], other)[0])


def test_states_outlive_the_model(gpu: WebGpuBackend, tiny_pth: Callable[[str], Path]) -> None:
    with Model(tiny_pth("7"), "webgpu") as model:
        _, state = model.forward([1, 2, 3])
        expected = state.copy()
        model.forward([4], state.copy())
    assert np.allclose(state.data, expected.data)


@pytest.mark.parametrize(("format", "bound"), [("fp32", 1e-4), ("fp16", 2e-2), ("int8", 1.0), ("q4_0", 8.0)])
def test_formats_of_a_strategy(gpu: WebGpuBackend, format: str, bound: float, tmp_path: Path) -> None:
    """As the same weights give on the NumPy backend, and near the unrounded ones."""
    path, tokens = tmp_path / "model.pth", [5, 9, 20, 31, 7]
    write_pth(path, tiny("7"), dtype="f32")
    with Model(path, f"webgpu {format}") as model, Model(path, f"numpy {format}") as same, Model(path, "numpy") as exact:
        logits = model.forward(tokens)[0]
        np.testing.assert_allclose(logits, same.forward(tokens)[0], atol=1e-4)
        assert np.abs(logits - exact.forward(tokens)[0]).max() < bound
        assert {tensor.format for tensor in model.plan.weights()} >= {rounded(format)}


def test_many_generations_leave_nothing_behind(model: Model) -> None:
    executable: Any = model._executable
    for _ in range(60):
        model.forward([1])
    seats, recordings = executable._seats.count, len(executable._recordings)
    allocated = executable.driver.live
    for i in range(100):
        model.forward([i % 90])
    assert (executable._seats.count, len(executable._recordings)) == (seats, recordings)
    assert executable.driver.live == allocated
