"""In which order ops run, where threads must meet, and which buffers may share memory."""
from dataclasses import dataclass, field, replace

from rwkv_edge import plan as p
from rwkv_edge_cpu.run.memory import CACHE_LINE

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


@dataclass(slots=True)
class Region:
    """Memory that buffers share, in floats per row.  free: (begin, end) of stretches, in order, never side by side."""

    end: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)

    def take(self, size: int) -> int:
        """From the smallest stretch that is large enough, or at the end, which grows."""
        fitting = [stretch for stretch in self.free if stretch[1] - stretch[0] >= size]
        if fitting:
            begin, end = min(fitting, key=lambda stretch: stretch[1] - stretch[0])
        else:
            begin = end = self.end
            if self.free and self.free[-1][1] == end:
                begin = self.free[-1][0]
            self.end = begin + size
        kept = [stretch for stretch in self.free if stretch[0] != begin]
        rest = [(begin + size, end)] if begin + size < end else []
        self.free = sorted(kept + rest)
        return begin

    def give_back(self, begin: int, size: int) -> None:
        end = begin + size
        before = next((stretch for stretch in self.free if stretch[1] == begin), (begin, begin))
        behind = next((stretch for stretch in self.free if stretch[0] == end), (end, end))
        self.free = sorted([*(stretch for stretch in self.free if stretch not in (before, behind)), (before[0], behind[1])])


def place_buffers(plan: p.Plan, phases: list[int]) -> tuple[dict[int, int], int, int]:
    """(offset of each buffer, in floats per row; floats per row of all that hold tokens; of all that hold outputs).

    Memory is free again in the phase behind the last use. Offsets and sizes are multiples of a cache line. Results are not
    placed: they go to the caller.
    """
    last = plan.last_uses()
    results = {buffer.index for buffer in plan.results}
    born: dict[int, list[p.Buffer]] = {}
    dying: dict[int, list[p.Buffer]] = {}
    for op, phase in zip(plan.ops, phases, strict=True):
        if op.out.index not in results:
            born.setdefault(phase, []).append(op.out)
            dying.setdefault(phases[last[op.out.index]], []).append(op.out)
    offsets: dict[int, int] = {}
    regions = {False: Region(), True: Region()}
    for phase in range(max(phases, default=-1) + 1):
        for buffer in dying.get(phase - 1, []):
            regions[buffer.per_output].give_back(offsets[buffer.index], _whole_lines(buffer.width))
        for buffer in sorted(born.get(phase, []), key=lambda buffer: -buffer.width):  # large ones leave fewer gaps first
            offsets[buffer.index] = regions[buffer.per_output].take(_whole_lines(buffer.width))
    return offsets, regions[False].end, regions[True].end


def _whole_lines(floats: int) -> int:
    return -(-floats * 4 // CACHE_LINE) * CACHE_LINE // 4
