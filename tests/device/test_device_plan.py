"""Weights on their way to a device: converted when it takes them, a few at a time, and none stays on the host."""
import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_device.device_plan import DevicePlan
from rwkv_edge_device.executable import DeviceExecutable

from rwkv_edge.backend import Batch
from rwkv_edge.convert.conversions import Conversions, converted_plan
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import MatMul, Plan, PlanBuilder
from rwkv_edge.strategy.headless import without_head
from rwkv_edge.weights.samples import random_matrix
from rwkv_edge.weights.tensor import Tensor
from tests.device.fake import FakeDriver

WIDTH = 256


def matrix(i: int, n_out: int = WIDTH, n_in: int = WIDTH) -> Tensor:
    return random_matrix(np.random.default_rng(i), "bf16", n_out, n_in).renamed(f"blocks.{i}.ffn.key.weight")


def chain(n: int, side: int = WIDTH) -> Plan:
    """Products one behind the other, of an embedding."""
    p = PlanBuilder()
    x = p.embed(matrix(0, 8, side))
    for i in range(n):
        x = p.matmul(x, matrix(i, side, side))
    return p.finish(x)


def conversions(plan: Plan, type: str, **more: Any) -> Conversions:
    return Conversions([(weight, type) for weight in plan.weights()], threads=2, **more)


def words(device_plan: DevicePlan) -> list[NDArray[np.uint8]]:
    return list(device_plan._matrices.values())


@pytest.mark.parametrize("type", ["f16", "q8_0", "q4"])
def test_the_device_gets_what_the_strategy_means(type: str) -> None:
    """Also where a matrix is too large for one launch."""
    plan = chain(3)
    driver = FakeDriver(binding=36_000)
    found = words(DevicePlan(plan, driver, conversions(plan, type)))
    expected = words(DevicePlan(converted_plan(plan, type), FakeDriver(binding=36_000), Conversions()))
    assert len(found) == len(expected) > 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_that_a_format_cannot_hold_change_the_format() -> None:
    """It is found on the way; matrices that are there already go again."""
    plan = chain(4)
    late = [op.weight.data for op in plan.ops if isinstance(op, MatMul)][2:]
    late[0][5, 7] = 0x4F80  # 2 ** 32: too much for f16, and for a block's scale
    late[1][0, 0] = 0x7F80  # infinity
    for type, formats in (("f16", ["f16", "f16", "f32", "f16"]), ("q8_0", ["q8_0", "q8_0", "bf16", "bf16"])):
        device_plan = DevicePlan(plan, driver := FakeDriver(), conversions(plan, type))
        assert [op.weight.format for op in device_plan.plan.ops if isinstance(op, MatMul)] == formats
        expected = words(DevicePlan(converted_plan(plan, type), FakeDriver(), Conversions()))
        for one, other in zip(words(device_plan), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert driver.allocated.count("weights") == 8


@pytest.mark.parametrize("type", ["bf16", "q8_0"])
def test_the_host_keeps_no_matrix(type: str) -> None:
    plan = chain(3)
    arrays = [weakref.ref(op.weight.data) for op in plan.ops if isinstance(op, MatMul)]
    executable = DeviceExecutable(plan, FakeDriver(), conversions(plan, type))
    del plan
    gc.collect()
    assert [array() for array in arrays] == [None] * 3
    found = [op.weight for op in executable.plan.ops if isinstance(op, MatMul)]
    assert {(weight.format, weight.shape) for weight in found} == {(type, (WIDTH, WIDTH))}
    assert all(np.isnan(weight.decode()).all() for weight in found)
    assert executable.matrix_bytes >= sum(weight.nbytes for weight in found)


class Sink(FakeDriver):
    """Takes weights without keeping them."""

    def allocate(self, nbytes: int, what: str) -> NDArray[np.uint8]:
        return super().allocate(nbytes if what != "weights" else 16, what)

    @contextmanager
    def filling(self, memory: NDArray[np.uint8], offset: int, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        yield np.empty(nbytes, np.uint8)


def test_a_few_matrices_are_in_memory_at_a_time() -> None:
    side, n = 1024, 40
    plan = chain(n, side)
    DevicePlan(chain(1), Sink(), conversions(chain(1), "f16"))  # loads what is loaded once
    tracemalloc.start()
    try:
        DevicePlan(plan, Sink(binding=1 << 24), conversions(plan, "f16"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = 2 * side * side
    assert size < peak < 20 * size  # in bytes of f16: some converted, and pieces as float32


def test_a_device_without_memory_says_so_before_anything_is_converted() -> None:
    class Full(FakeDriver):
        def allocate(self, nbytes: int, what: str) -> NDArray[np.uint8]:
            if self.allocated.count("weights") == 5:
                raise BackendError("is out of memory")
            return super().allocate(nbytes, what)

    plan = chain(6)
    with pytest.raises(BackendError, match="out of memory"):
        DevicePlan(plan, Full(), conversions(plan, "q8_0", progress=lambda *_: pytest.fail("was converted")))
    assert [op.weight.format for op in plan.ops if isinstance(op, MatMul)] == ["bf16"] * 6


def test_what_ends_an_upload_ends_the_conversion() -> None:
    class Refusing(FakeDriver):
        def filling(self, memory: NDArray[np.uint8], offset: int, nbytes: int) -> Any:
            raise BackendError("was lost")

    plan, done = chain(40), list[int]()
    with pytest.raises(BackendError, match="was lost"):
        DevicePlan(plan, Refusing(), conversions(plan, "f16", progress=lambda n, _: done.append(n)))
    assert len(done) == 1


def test_a_part_of_a_plan_uses_the_weights_that_are_there() -> None:
    plan = chain(3)
    whole = DeviceExecutable(plan, driver := FakeDriver())
    part = whole.beside(without_head(whole.plan))
    assert driver.allocated.count("weights") == 3
    assert [step.weights for step in part._device_plan.steps(True, 1, 1)[1:]] == words(whole._device_plan)[:2]
    part.close()
    assert not (words(whole._device_plan)[0] == 255).all()  # not freed
    part = whole.beside(without_head(whole.plan))
    whole.close()
    with pytest.raises(BackendError, match="closed"):
        part.run(Batch(np.zeros(1, np.int32), [1], [np.zeros(0, np.float32)], np.zeros(0, np.int32)))
