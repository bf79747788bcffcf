"""A device that fails while a model opens, or later: what the error says, and that "auto" goes on with the CPU."""
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rwkv_edge_device import self_test
from rwkv_edge_device.executable import DeviceExecutable
from rwkv_edge_device.found import Found
from rwkv_edge_device.source import Sources
from rwkv_edge_webgpu import WebGpuBackend, backend

from rwkv_edge import BackendError, Model, StrategyError, registry
from rwkv_edge.backend import Batch
from rwkv_edge.machine import user_cache
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from tests.conftest import need_backend
from tests.cpu.plans import batch, deep_plan
from tests.device.fake import FakeDriver

FULL = "a fake is out of memory: it has no 1.0 MB for"
LOST = "a fake was lost"


class Full(FakeDriver):
    """Has no more than `most` bytes for one thing."""

    def __init__(self, what: str, most: int = 0) -> None:
        super().__init__()
        self.what, self.most = what, most

    def allocate(self, nbytes: int, what: str) -> Any:
        if what == self.what and nbytes > self.most:
            raise BackendError(f"{FULL} {what}")
        return super().allocate(nbytes, what)


class Lost(FakeDriver):
    """Is lost at its `calls`-th launch, and stays so."""

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.left = calls

    def launch(self, *arguments: Any) -> None:
        self.left -= 1
        if self.left <= 0:
            raise BackendError(LOST)
        super().launch(*arguments)

    def read(self, memory: Any, offset: int, out: Any) -> None:
        if self.left <= 0:
            raise BackendError(LOST)
        super().read(memory, offset, out)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[], FakeDriver]], None]:
    """card(driver): a machine whose one adapter opens as that, and whose `auto` takes it first, the CPU next."""
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))

    def with_driver(driver: Callable[[], FakeDriver]) -> None:
        monkeypatch.setattr(WebGpuBackend, "found", lambda self: [Found("a fake", "discrete", "1.0", "Vulkan", None)])
        monkeypatch.setattr(WebGpuBackend, "open", lambda self, device: driver())
        monkeypatch.setattr("rwkv_edge.auto.candidates", lambda: iter([registry.load("webgpu"), registry.load("cpu")]))

    return with_driver


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a device that has passed its self-test."""
    monkeypatch.setattr("rwkv_edge_device.self_test.find_wrong", lambda *_: "")


FAILURES: dict[str, tuple[Callable[[], FakeDriver], str]] = {
    "no memory for vectors": (lambda: Full("vectors"), f"{FULL} vectors"),
    "no memory for weights": (lambda: Full("weights"), f"{FULL} weights"),
    "no memory for states": (lambda: Full("states"), f"{FULL} states"),
    "no memory for activations": (lambda: Full("activations"), f"{FULL} activations"),
    "lost": (Lost, LOST),
    "computes zeros": (FakeDriver, r"a fake \(discrete, Vulkan\) computes wrongly \(results of 1 tokens are off by"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_device_that_fails_at_once(card: Callable[..., None], failure: str) -> None:
    """Named, it is an error; under "auto" the CPU computes the right numbers, and a notice says why."""
    driver, message = FAILURES[failure]
    card(driver)
    plan = deep_plan()
    with pytest.raises(BackendError, match=message):
        compiled(plan, parse("webgpu"))
    with pytest.warns(FallbackWarning, match=f"running on the cpu backend: {message}"):
        chosen = compiled(plan, parse("auto"))
    assert chosen.name == "cpu"
    reference = registry.load("numpy").compile(plan)
    np.testing.assert_allclose(chosen.executable.run(batch(plan))[0], reference.run(batch(plan))[0], atol=1e-4)
    chosen.executable.close()
    reference.close()


def test_what_the_self_test_found_is_remembered(card: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    card(FakeDriver)
    with pytest.raises(BackendError, match="computes wrongly"):
        backend.compile(deep_plan())
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: pytest.fail("tested again"))
    with pytest.raises(BackendError, match="update its driver, or use the cpu backend"):
        backend.compile(deep_plan())


@pytest.mark.usefixtures("untested")
def test_a_device_that_is_lost_while_it_runs(card: Callable[..., None]) -> None:
    """The run says so, and so does whoever asks for a state that was there; the model closes all the same."""
    card(lambda: Lost(calls=2))
    plan = deep_plan()
    executable = backend.compile(plan)
    assert isinstance(executable, DeviceExecutable)
    run = batch(plan)
    executable.run(run)
    with pytest.raises(BackendError, match=LOST):
        executable.run(run)
    with pytest.raises(BackendError, match=LOST):
        executable.fetch(run.states[0])
    executable.close()
    with pytest.raises(BackendError, match="the state was lost with a fake"):
        executable.fetch(run.states[0])


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("what", ["activations", "inputs"])
def test_no_memory_for_a_long_prompt(card: Callable[..., None], what: str) -> None:
    """An error that a shorter one does not meet."""
    card(lambda: Full(what, 1 << 16))
    plan = deep_plan()
    executable = backend.compile(plan)
    tokens, state = np.zeros(500, np.int32), np.zeros(plan.state_size, np.float32)
    with pytest.raises(BackendError, match=f"{FULL} {what}"):
        executable.run(Batch(tokens, [500], [state], np.array([499], np.int32)))
    assert executable.run(Batch(tokens[:5], [5], [state], np.array([4], np.int32)))[0].shape == (1, 11)
    executable.close()


@pytest.fixture
def adapter() -> None:
    need_backend("webgpu")


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize(
    ("strategy", "at", "which"),
    [("webgpu:99", 8, "99"), ("webgpu:nobody", 8, "nobody"), ("webgpu:99 q4_0", 8, "99"), ("numpy *1 -> webgpu:99", 20, "99")],
)
def test_an_adapter_beyond_those_there_are(
    tiny_pth: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, strategy: str, at: int, which: str
) -> None:
    """Told what there is, before any weights are converted."""
    monkeypatch.setattr("rwkv_edge.strategy.compiling._in_formats", lambda *_: pytest.fail("weights are converted"))
    told = rf'^strategy "{re.escape(strategy)}", character {at}: no WebGPU adapter is \'{which}\'; there are 0: '
    with pytest.raises(StrategyError, match=told):
        Model(tiny_pth("7"), strategy)


def test_an_adapter_without_a_name() -> None:
    with pytest.raises(StrategyError, match='strategy "webgpu: fp16", character 8: expected a number or a name of a device'):
        parse("webgpu: fp16")


def test_a_kernel_that_the_library_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Is an error before anything runs, though modules are made without the library's own checks."""
    need_backend("webgpu")
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    right = Sources.assemble
    monkeypatch.setattr(Sources, "assemble", lambda self, kernel: right(self, kernel) + "\nfn broken(")
    with pytest.raises(BackendError, match=r"did not take the kernels.*parsing error"):
        backend.compile(deep_plan())
