"""Where buffers lie: what is alive at the same time never overlaps, and memory that is free is used again."""
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rwkv_edge_cpu.run.schedule import Region, in_phases, place_buffers

from rwkv_edge import Model
from rwkv_edge.plan import Plan
from tests.checkpoints.tiny import VERSIONS
from tests.cpu.plans import deep_plan


def check_places(plan: Plan) -> None:
    plan, phases = in_phases(plan)
    offsets, token_floats, output_floats = place_buffers(plan, phases)
    last = plan.last_uses()
    lives = {
        op.out: (phase, phases[last[op.out.index]])
        for op, phase in zip(plan.ops, phases, strict=True)
        if op.out.index != plan.logits.index
    }
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
    totals = [place_buffers(*in_phases(deep_plan(layers)))[1] for layers in (2, 20)]
    assert totals[0] == totals[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_buffers_alive_together_do_not_overlap(version: str, tiny_pth: Callable[[str], Path]) -> None:
    check_places(Model(tiny_pth(version), "numpy").plan)


def test_a_region_joins_what_is_given_back() -> None:
    region = Region()
    a, b, c = region.take(32), region.take(16), region.take(64)
    assert (a, b, c, region.end) == (0, 32, 48, 112)
    region.give_back(a, 32)
    region.give_back(c, 64)
    assert region.take(16) == a  # from the smallest that is large enough
    region.give_back(b, 16)
    region.give_back(a, 16)
    assert region.free == [(0, 112)]
    assert region.take(128) == 0
    assert (region.free, region.end) == ([], 128)
