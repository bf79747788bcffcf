"""Models become few launches, and every op is in one of them."""
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rwkv_edge_device.allocation import Arena
from rwkv_edge_device.fusion import Member, fusions

from rwkv_edge.arch import build_plan
from rwkv_edge.plan import MatMul, Plan, inputs
from rwkv_edge.weights import open_weights
from tests.checkpoints.tiny import VERSIONS

LAUNCHES_PER_LAYER = {"4": 7, "5.0": 7, "5.1": 7, "5.2": 7, "6": 10, "7": 8}


def together(members: list[Member]) -> Iterator[list[Member]]:
    yield members


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(version: str, tiny_pth: Callable[[str], Path]) -> Plan:
    return build_plan(open_weights(tiny_pth(version)))


@pytest.mark.parametrize("one_each", [True, False])
def test_every_op_runs_once_and_after_what_it_reads(plan: Plan, one_each: bool) -> None:
    done: set[int] = set()
    seen = []
    for fusion in fusions(plan, one_each, together):
        for op in fusion.ops:
            inside = done | {other.out.index for other in fusion.ops}
            assert {buffer.index for buffer in inputs(op)} <= inside
            seen.append(op)
        assert {op.x.index for op in fusion.ops if isinstance(op, MatMul)} <= done
        done |= {op.out.index for op in fusion.ops}
    assert sorted(map(id, seen)) == sorted(map(id, plan.ops))


def test_launches_per_layer(plan: Plan, version: str) -> None:
    layers = len(plan.layer_starts) - 1
    decode = len(fusions(plan, True, together))
    assert decode <= LAUNCHES_PER_LAYER[version] * layers + 2
    assert len(fusions(plan, False, together)) <= decode + 2 * layers


@pytest.mark.parametrize("one_each", [True, False])
def test_buffers_that_are_alive_do_not_overlap(plan: Plan, one_each: bool) -> None:
    schedule = fusions(plan, one_each, together)
    arena = Arena.of(plan, schedule)
    last = {index: at for at, fusion in enumerate(schedule) for index in fusion.reads()}
    last[plan.logits.index] = len(schedule)
    alive: list[tuple[int, int, bool, int]] = []
    for at, fusion in enumerate(schedule):
        for op in fusion.ops:
            if op.out.index not in arena.kept:
                continue
            begin, end = arena.offset(op.out), arena.offset(op.out) + op.out.width
            for other_begin, other_end, per_output, until in alive:
                apart = end <= other_begin or other_end <= begin or per_output != op.out.per_output or until < at
                assert apart
            alive.append((begin, end, op.out.per_output, last.get(op.out.index, at)))
            assert end <= arena.pool(op.out).size
