"""A plan cut anywhere between layers computes the same; stages know what they take, give and remember."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge import registry
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Batch, CompileOptions, HoldsStates
from rwkv_edge.plan import Input, Plan, inputs
from rwkv_edge.strategy.cut import cut
from rwkv_edge.strategy.split import Link, SplitExecutable
from rwkv_edge.weights import open_weights
from tests.checkpoints.tiny import VERSIONS
from tests.conftest import need_backend

Array = NDArray[Any]
CUTS = ((1,), (2,), (3,), (1, 2), (1, 2, 3))  # of three layers and the head
PAIRS = (("numpy", "cpu"), ("cpu", "cpu"), ("webgpu", "cpu"), ("cpu", "webgpu"), ("webgpu", "webgpu"), ("opencl", "webgpu"))
# Every cut between two backends, and every pair where all cuts are: a cut is the plan's, whoever runs the stages.
CASES = [*((layers, PAIRS[0]) for layers in CUTS), *((CUTS[-1], names) for names in PAIRS[1:])]


@pytest.fixture(params=VERSIONS)
def plan(request: pytest.FixtureRequest, tiny_pth: Callable[[str], Path]) -> Plan:
    return build_plan(open_weights(tiny_pth(request.param)))


def split(plan: Plan, layers: tuple[int, ...], names: tuple[str, ...]) -> SplitExecutable:
    """Cut before these layers, on these backends in turn."""
    stages = cut(plan, [plan.layer_starts[layer] for layer in layers])
    return SplitExecutable([Link(s, registry.load(names[i % len(names)]).compile(s.plan)) for i, s in enumerate(stages)])


def runs(executable: Any, plan: Plan) -> list[Array]:
    """Two sequences and a third, together and apart, in pieces: all logits, then the states."""
    rng = np.random.default_rng(5)
    states = [rng.uniform(0.1, 0.2, plan.state_size).astype(executable.state_dtype) for _ in range(3)]
    found = []
    for active, lengths in (((0, 1), (5, 2)), ((0,), (1,)), ((2, 0, 1), (3, 1, 1)), ((1,), (4,)), ((0, 1, 2), (1, 1, 1))):
        tokens = rng.integers(0, 97, sum(lengths)).astype(np.int32)
        outputs = np.arange(0, len(tokens), 2, dtype=np.int32)
        found += executable.run(Batch(tokens, lengths, [states[i] for i in active], outputs))
    if isinstance(executable, HoldsStates):
        for state in states:
            executable.fetch(state)
    executable.close()
    return [*found, *states]


@pytest.mark.parametrize(("layers", "names"), CASES)
def test_a_cut_changes_nothing(plan: Plan, layers: tuple[int, ...], names: tuple[str, ...]) -> None:
    for name in names:
        need_backend(name)
    expected = runs(registry.load("numpy").compile(plan, CompileOptions(precision="fp64")), plan)
    for ours, theirs in zip(runs(split(plan, layers, names), plan), expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1, np.abs(theirs[np.abs(theirs) < 1e20]).max()))


def test_one_backend_gives_the_same_bits(plan: Plan) -> None:
    whole = runs(registry.load("numpy").compile(plan), plan)
    for ours, theirs in zip(runs(split(plan, (1, 2, 3), ("numpy",)), plan), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stages_share_the_state_without_gaps(plan: Plan) -> None:
    stages = cut(plan, plan.layer_starts[1:])
    at = 0
    for stage in stages[:-1]:
        assert stage.state.start == at
        at = stage.state.stop
        assert stage.plan.state_size == stage.state.stop - stage.state.start
    assert at == plan.state_size
    assert stages[-1].plan.state_size == 0


def test_what_lives_across_a_border(plan: Plan) -> None:
    """The stream, and in version 7 the first layer's values, which all later layers mix in."""
    stages = cut(plan, plan.layer_starts[1:])
    seven = any(type(op).__name__ == "Wkv7" for op in plan.ops)
    assert [len(stage.takes) for stage in stages] == ([0, 2, 2, 1] if seven else [0, 1, 1, 1])
    assert [len(stage.gives) for stage in stages] == ([2, 1, 1, 1] if seven else [1, 1, 1, 1])


def test_stages_are_plans(plan: Plan) -> None:
    for stage in cut(plan, plan.layer_starts[1:]):
        written: set[int] = set()
        for op in stage.plan.ops:
            assert {buffer.index for buffer in inputs(op)} <= written
            written.add(op.out.index)
        assert sorted(written) == list(range(len(stage.plan.buffers)))
        assert all(stage.plan.buffers[op.out.index] is op.out for op in stage.plan.ops)
        assert [op.number for op in stage.plan.ops if isinstance(op, Input)] == list(range(len(stage.takes)))
