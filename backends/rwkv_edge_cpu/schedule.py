"""In which order ops run, where threads must meet, and which buffers may share memory."""
from dataclasses import replace

from rwkv_edge import plan as p

ELEMENTWISE = (p.Add, p.Multiply, p.Scale, p.Activation, p.Lerp)


def in_phases(plan: p.Plan) -> tuple[p.Plan, list[int]]:
    """(the plan with its ops sorted by phase, each op's phase).

    Ops of one phase run without a barrier. An op comes a phase later than what it depends on, except for elementwise ops behind
    each other: there every thread computes the same elements of both.
    """
    phases: list[int] = []
    writer: dict[int, int] = {}  # buffer -> position of the op that writes it
    slot_user: dict[int, int] = {}  # slot offset -> the last op that touched it
    for position, op in enumerate(plan.ops):
        phase = 0
        for buffer in p.inputs(op):
            source = writer.get(buffer.index)
            if source is None:  # it comes from outside
                continue
            phase = max(phase, phases[source] + (0 if _same_share(plan.ops[source], op) else 1))
        slot = getattr(op, "slot", None)
        if slot is not None:
            if slot.offset in slot_user:
                phase = max(phase, phases[slot_user[slot.offset]] + 1)
            slot_user[slot.offset] = position
        phases.append(phase)
        writer[op.out.index] = position
    order = sorted(range(len(phases)), key=phases.__getitem__)  # stable: within a phase, still after what it depends on
    return replace(plan, ops=tuple(plan.ops[i] for i in order)), [phases[i] for i in order]


def _same_share(first: p.Op, then: p.Op) -> bool:
    return (
        isinstance(first, ELEMENTWISE)
        and isinstance(then, ELEMENTWISE)
        and first.out.width == then.out.width
        and first.out.per_output == then.out.per_output
    )


def place_buffers(plan: p.Plan, phases: list[int]) -> tuple[dict[int, int], int, int]:
    """(offset of each buffer, in floats per row; floats per row of all that hold tokens; of all that hold outputs).

    Memory is free again in the phase behind the last use, and goes to the next buffer of the same width. Offsets are
    multiples of a cache line. Results are not placed: they go to the caller.
    """
    last = plan.last_uses()
    free: dict[tuple[bool, int], list[int]] = {}
    dying: list[list[p.Buffer]] = [[] for _ in range(max(phases, default=0) + 1)]
    offsets: dict[int, int] = {}
    total = {False: 0, True: 0}
    results = {buffer.index for buffer in plan.results}
    current = 0
    for op, phase in zip(plan.ops, phases, strict=True):
        while current < phase:
            for buffer in dying[current]:
                free.setdefault((buffer.per_output, buffer.width), []).append(offsets[buffer.index])
            current += 1
        buffer = op.out
        if buffer.index in results:
            continue
        vacant = free.get((buffer.per_output, buffer.width))
        if vacant:
            offsets[buffer.index] = vacant.pop()
        else:
            offsets[buffer.index] = total[buffer.per_output]
            total[buffer.per_output] += -(-buffer.width // 16) * 16
        dying[phases[last[buffer.index]]].append(buffer)
    return offsets, total[False], total[True]
