"""A plan cut into stages, each a plan of its own: what one backend runs of a model."""
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from rwkv_edge.plan import Buffer, Input, Op, Plan, inputs
from rwkv_edge.slot import Slot


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """plan: with an `Input` for each buffer of earlier stages.  takes, gives: the whole plan's indices of these buffers, and of
    its results.  state: which part of a sequence's flat array is this stage's."""

    plan: Plan
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    state: slice


def cut(plan: Plan, borders: Sequence[int]) -> list[Stage]:
    """borders: indices of the ops with which a new stage begins, ascending; where layers begin, so that a stage's part of the
    state is in one piece."""
    last_uses = plan.last_uses()
    return [_stage(plan, begin, end, last_uses) for begin, end in pairwise([0, *borders, len(plan.ops)])]


def _stage(plan: Plan, begin: int, end: int, last_uses: dict[int, int]) -> Stage:
    ops = plan.ops[begin:end]
    written = {op.out.index for op in ops}
    takes = list({buffer.index: buffer for op in ops for buffer in inputs(op) if buffer.index not in written}.values())
    gives = [op.out for op in ops if last_uses[op.out.index] >= end]
    outs = [*takes, *(op.out for op in ops)]
    buffers = {old.index: Buffer(i, old.width, old.per_output) for i, old in enumerate(outs)}
    slots = [op.slot for op in ops if hasattr(op, "slot")]
    state = slice(min((s.offset for s in slots), default=0), max((s.offset + s.size for s in slots), default=0))
    moved = {s.offset: replace(s, offset=s.offset - state.start) for s in plan.slots if state.start <= s.offset < state.stop}
    starts = tuple(at - begin + len(takes) for at in plan.layer_starts if begin <= at < end)
    given = [Input(buffers[buffer.index], number) for number, buffer in enumerate(takes)]
    stage = Plan(
        (*given, *(_moved(op, buffers, moved) for op in ops)),
        tuple(buffers.values()),
        tuple(moved.values()),
        starts,
        tuple(buffers[buffer.index] for buffer in gives),
    )
    return Stage(stage, tuple(buffer.index for buffer in takes), tuple(buffer.index for buffer in gives), state)


def _moved(op: Op, buffers: dict[int, Buffer], slots: dict[int, Slot]) -> Op:
    """The op with its stage's buffers and slots."""
    changed: dict[str, Any] = {}
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, Buffer):
            changed[field.name] = buffers[value.index]
        elif isinstance(value, Slot):
            changed[field.name] = slots[value.offset]
    return replace(op, **changed)
