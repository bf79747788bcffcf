"""What devices do about limits of memory, threads and bindings, and about batches that do not fit."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rwkv_edge_device import self_test
from rwkv_edge_device.backend import DeviceBackend
from rwkv_edge_device.driver import Limits
from rwkv_edge_device.executable import DeviceExecutable

from rwkv_edge import registry
from rwkv_edge.backend import Backend, Batch
from rwkv_edge.errors import BackendError, InputError
from rwkv_edge.plan import Buffer, Plan, PlanBuilder
from tests.conftest import DEVICE_BACKENDS, need_backend
from tests.ops.test_ops import HEAD_OPS, ROW_OPS, VOCABULARY, Inputs, assert_same, stored


@pytest.fixture(params=[name for name in DEVICE_BACKENDS if isinstance(registry.load(name), DeviceBackend)])
def device(request: pytest.FixtureRequest) -> Backend:
    need_backend(request.param)
    return registry.load(request.param)


def limit(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    """As if the device had these, and were tested."""
    monkeypatch.setattr(self_test, "wrong_once", lambda *_: "")
    opened = DeviceExecutable.__init__

    def limited(self: DeviceExecutable, plan: Plan, driver: Any, *more: Any) -> None:
        driver.limits = limits
        opened(self, plan, driver, *more)

    monkeypatch.setattr(DeviceExecutable, "__init__", limited)


@pytest.mark.parametrize("bindable", [1 << 16, 1 << 18])
def test_a_small_device_takes_parts(device: Backend, bindable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of more than one binding, more rows than the arena holds, more sequences than seats."""
    weight = stored(np.random.default_rng(0).standard_normal((2000, 64)), "f32")
    limit(monkeypatch, Limits(bindable, 40))

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 4, 64)()
        y = p.lerp(x, p.token_shift(x, p.slot("s", 64)), np.full(64, 0.3, np.float32))
        p.slot("large", 8000 if bindable == 1 << 16 else 16)
        return p.matmul(p.select_outputs(y), weight)

    assert_same(device, build, (30, 1, 1, 40), list(range(72)))


def test_a_device_with_small_workgroups(device: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, Limits(1 << 20, threads=128))
    assert_same(device, lambda p: ROW_OPS["layer_norm"](p, Inputs(p, 0, 300)), (1, 3))
    assert_same(device, lambda p: HEAD_OPS["wkv7"](p, Inputs(p, 1, 192), 3), (1, 3))
    assert_same(device, lambda p: HEAD_OPS["wkv6"](p, Inputs(p, 2, 256), 2), (9,))
    with pytest.raises(BackendError, match="heads of 256 channels are too large for this device"):
        assert_same(device, lambda p: HEAD_OPS["group_norm"](p, Inputs(p, 2, 256), 1), (1,))


def test_batches_that_do_not_fit_are_refused(device: Backend) -> None:
    builder = PlanBuilder()
    x = Inputs(builder, 0, 8)()
    plan = builder.finish(builder.select_outputs(builder.token_shift(x, builder.slot("s", 8))))
    executable = device.compile(plan)
    state = np.zeros(8, np.float32)

    def batch(tokens: Sequence[int] = (1, 2), lengths: Sequence[int] = (2,), states: Any = None, outputs: Any = (0,)) -> Batch:
        return Batch(np.array(tokens, np.int32), lengths, states or [state], np.array(outputs, np.int32))

    for bad in (
        batch(tokens=(1, VOCABULARY)), batch(tokens=(-1, 1)), batch(lengths=(1,)), batch(lengths=(2, 0)), batch(outputs=(2,)),
        batch(outputs=(1, 0)), batch(outputs=(-1,)), batch(states=[np.zeros(7, np.float32)]), batch(states=[np.zeros(8)]),
        batch(lengths=(1, 1), states=[state, state]), batch(lengths=(1, 1)), batch(states=[np.zeros(16, np.float32)[::2]]),
    ):
        with pytest.raises(InputError):
            executable.run(bad)
    assert executable.run(batch())[0].shape == (1, 8)
    executable.close()
    executable.close()
    with pytest.raises(BackendError, match="closed"):
        executable.run(batch())
