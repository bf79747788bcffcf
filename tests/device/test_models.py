"""What holds on any device: states that move between backends, weight formats, processes, and a device that is wrong."""
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rwkv_edge_device import self_test
from rwkv_edge_device.backend import DeviceBackend
from rwkv_edge_device.source import Sources

from rwkv_edge import BackendError, Model, State, registry
from rwkv_edge.machine import user_cache
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import DEVICE_BACKENDS, need_backend
from tests.cpu.plans import deep_plan
from tests.device.test_self_test import rounded
from tests.text.test_generation import resident


@pytest.fixture(params=DEVICE_BACKENDS)
def device(request: pytest.FixtureRequest) -> str:
    """A backend that can work on this machine."""
    need_backend(request.param)
    return str(request.param)


@pytest.fixture
def model(device: str, tiny_pth: Callable[[str], Path]) -> Iterator[Model]:
    with Model(tiny_pth("7"), device) as model:
        yield model


def test_a_device_that_computes_wrongly_is_refused_and_remembered(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = registry.load(device)
    assert isinstance(backend, DeviceBackend)
    right = Sources.assemble

    def wrong(self: Sources, kernel: Any) -> str:
        return right(self, kernel).replace("(b - a) * w", "(b - a)")

    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Sources, "assemble", wrong)
        with pytest.raises(BackendError, match="computes wrongly"):
            backend.compile(deep_plan())
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: pytest.fail("tested again"))
    with pytest.raises(BackendError, match="computes wrongly"):
        backend.compile(deep_plan())


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
def test_a_sequence_moves_between_backends(device: str, version: str, tiny_pth: Callable[[str], Path]) -> None:
    path, tokens = tiny_pth(version), [5, 9, 20, 31, 7, 8, 90, 3]
    with Model(path, device) as here, Model(path, "numpy") as there:
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


def test_states_outlive_the_model(device: str, tiny_pth: Callable[[str], Path]) -> None:
    with Model(tiny_pth("7"), device) as model:
        _, state = model.forward([1, 2, 3])
        expected = state.copy()
        model.forward([4], state.copy())
    assert np.allclose(state.data, expected.data)


@pytest.mark.parametrize(("format", "bound"), [("fp32", 1e-4), ("fp16", 2e-2), ("int8", 1.0), ("q4_0", 8.0)])
def test_formats_of_a_strategy(device: str, format: str, bound: float, tmp_path: Path) -> None:
    """As the same weights give on the NumPy backend, and near the unrounded ones."""
    path, tokens = tmp_path / "model.pth", [5, 9, 20, 31, 7]
    write_pth(path, tiny("7"), dtype="f32")
    with Model(path, f"{device} {format}") as model, Model(path, f"numpy {format}") as same, Model(path, "numpy") as exact:
        logits = model.forward(tokens)[0]
        np.testing.assert_allclose(logits, same.forward(tokens)[0], atol=1e-4)
        assert np.abs(logits - exact.forward(tokens)[0]).max() < bound
        executable: Any = model._executable
        assert {tensor.format for tensor in executable.plan.weights()} >= {rounded(format)}
        assert model.matrix_bytes == same.matrix_bytes


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
@pytest.mark.parametrize("format", ["", "fp16"])
def test_the_file_is_not_kept_in_memory(device: str, format: str, tmp_path: Path) -> None:
    """Only what its vectors need, and rows of the embedding."""
    write_pth(tmp_path / "model.pth", tiny("7", n_vocab=65536), dtype="f32")
    with Model(tmp_path / "model.pth", f"{device} {format}") as model:
        model.forward([1, 65000])
        kilobytes = resident(tmp_path / "model.pth")
        assert kilobytes is not None
        assert kilobytes < 12_000  # of 33 MB; the system may map 2 MB for a row


@pytest.mark.parametrize("rest", ["", " *1 -> numpy q8_0 *1 -> {device} fp16", " *1 -> numpy fp16"])
def test_progress_is_of_the_whole_model(device: str, rest: str, tiny_pth: Callable[[str], Path]) -> None:
    calls: list[tuple[int, int]] = []
    strategy = f"{device} fp16{rest.format(device=device)}"
    with Model(tiny_pth("7"), strategy, progress=lambda *at: calls.append(at)) as model:
        model.forward([1])
    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("split", ["{device} fp16", "numpy *1 -> {device} fp16", "{device} fp16 *1 -> numpy"])
def test_an_embedding_comes_from_the_weights_that_are_there(
    device: str, split: str, tiny_pth: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where the last layers are elsewhere. What a sequence has seen goes along."""
    path, strategy = tiny_pth("7"), split.format(device=device)
    with Model(path, strategy) as model, Model(path, split.format(device="numpy")) as same:
        _, state = model.forward([5, 9])
        _, other = same.forward([5, 9])
        if strategy.endswith("fp16"):
            driver, allocated = driver_of(model), list[str]()
            allocate = driver.allocate
            monkeypatch.setattr(driver, "allocate", lambda nbytes, what: (allocated.append(what), allocate(nbytes, what))[1])
        np.testing.assert_allclose(model.embed([20, 31], state), same.embed([20, 31], other), atol=1e-4)
        if strategy.endswith("fp16"):
            assert sorted(allocated) == ["activations", "inputs", "states"]
        np.testing.assert_allclose(model.forward([7], state)[0], same.forward([7], other)[0], atol=1e-4)
        model.embed([8], state)
    same = Model(path, "numpy")
    np.testing.assert_allclose(state.data, same.forward([5, 9, 20, 31, 7, 8])[1].data, atol=2e-3)


def driver_of(model: Model) -> Any:
    executable: Any = model._executable
    return (executable.links[-1].executable if hasattr(executable, "links") else executable).driver


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
