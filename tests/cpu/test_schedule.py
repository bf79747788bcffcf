"""Where buffers lie: what is alive at the same time never overlaps, and memory that is free is used again."""
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rwkv_edge_cpu.code.target import chosen
from rwkv_edge_cpu.run.lowering import Work, lower
from rwkv_edge_cpu.run.schedule import FreeList, in_phases, place_buffers
from rwkv_edge_cpu.run.steps import steps_of

from rwkv_edge import Model
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.weights.tensor import Tensor
from tests.checkpoints.tiny import VERSIONS
from tests.cpu.plans import deep_plan


def scheduled(plan: Plan) -> tuple[list[Work], list[int]]:
    cpu = chosen()
    works = [lower(step, cpu, 1).work for step in steps_of(plan, cpu, frozenset())]
    order, phases = in_phases(works)
    return [works[i] for i in order], phases


def check_places(plan: Plan) -> None:
    works, phases = scheduled(plan)
    offsets, token_floats, output_floats = place_buffers(works, phases, plan.results)
    last = {buffer: phase for work, phase in zip(works, phases, strict=True) for buffer in (work.out, *work.reads)}
    lives = {work.out: (phase, last[work.out]) for work, phase in zip(works, phases, strict=True) if work.out != plan.logits}
    for per_output, total in ((False, token_floats), (True, output_floats)):
        most = 0
        for phase in range(max(phases) + 1):
            alive = [b for b, (born, end) in lives.items() if b.per_output == per_output and born <= phase <= end]
            places = sorted((offsets[b.index], offsets[b.index] + b.width) for b in alive)
            assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
            assert all(begin % 16 == 0 and end <= total for begin, end in places)
            most = max(most, sum(-(-b.width // 16) * 16 for b in alive))
        assert total <= 1.25 * most


def test_layers_use_the_same_memory() -> None:
    totals = [place_buffers(*scheduled(plan), plan.results)[1] for plan in map(deep_plan, (2, 20))]
    assert totals[0] == totals[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_buffers_alive_together_do_not_overlap(version: str, tiny_pth: Callable[[str], Path]) -> None:
    check_places(Model(tiny_pth(version), "numpy").plan)


def test_steps_that_share_a_slot_run_in_the_order_of_the_plan() -> None:
    """The second one takes what the first has left there."""
    p = PlanBuilder()
    x = p.embed(Tensor("w", (4, 8), "f32", np.ones((4, 8), np.float32)))
    slot = p.slot("shift", 8)
    works, phases = scheduled(p.finish(p.add(p.token_shift(x, slot), p.token_shift(x, slot))))
    assert [phase for work, phase in zip(works, phases, strict=True) if work.slot is slot] == [1, 2]


def test_free_memory_joins_what_is_given_back() -> None:
    memory = FreeList()
    a, b, c = memory.take(32), memory.take(16), memory.take(64)
    assert (a, b, c, memory.end) == (0, 32, 48, 112)
    memory.give_back(a, 32)
    memory.give_back(c, 64)
    assert memory.take(16) == a  # from the smallest that is large enough
    memory.give_back(b, 16)
    memory.give_back(a, 16)
    assert memory.free == [(0, 112)]
    assert memory.take(128) == 0
    assert (memory.free, memory.end) == ([], 128)
