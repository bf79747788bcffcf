"""In which order ops run, where threads must meet, and which buffers may share memory."""
from collections.abc import Sequence
from dataclasses import dataclass, field

from rwkv_edge import plan as p
from rwkv_edge_cpu.run.lowering import Work
from rwkv_edge_cpu.run.memory import CACHE_LINE


def in_phases(works: Sequence[Work]) -> tuple[list[int], list[int]]:
    """(positions, sorted by phase; the phase of each).

    Steps of one phase run without a barrier. A step comes a phase later than what it depends on, except for elementwise ones
    behind each other: there every thread computes the same elements of both.
    """
    phases: list[int] = []
    writer: dict[int, int] = {}  # buffer -> position of the step that writes it
    slot_user: dict[int, int] = {}  # slot offset -> the last step that touched it
    for position, work in enumerate(works):
        phase = 0
        for buffer in work.reads:
            source = writer.get(buffer.index)
            if source is None:  # it comes from outside
                continue
            phase = max(phase, phases[source] + (0 if works[source].elementwise and work.elementwise else 1))
        if work.slot is not None:
            if work.slot.offset in slot_user:
                phase = max(phase, phases[slot_user[work.slot.offset]] + 1)
            slot_user[work.slot.offset] = position
        phases.append(phase)
        writer[work.out.index] = position
    order = sorted(range(len(phases)), key=phases.__getitem__)  # stable: within a phase, still after what it depends on
    return order, [phases[i] for i in order]


@dataclass(slots=True)
class FreeList:
    """Memory that buffers share, in floats per row.  end: what it takes in all.
    free: (begin, end) of stretches, in order, never side by side."""

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


def place_buffers(
    works: Sequence[Work], phases: Sequence[int], results: Sequence[p.Buffer]
) -> tuple[dict[int, int], int, int]:
    """(offset of each buffer, in floats per row; floats per row of all that hold tokens; of all that hold outputs).

    Memory is free again in the phase behind the last use. Offsets and sizes are multiples of a cache line. Results are not
    placed: they go to the caller.
    """
    last = {buffer.index: phase for work, phase in zip(works, phases, strict=True) for buffer in (work.out, *work.reads)}
    callers = {buffer.index for buffer in results}
    born: dict[int, list[p.Buffer]] = {}
    dying: dict[int, list[p.Buffer]] = {}
    for work, phase in zip(works, phases, strict=True):
        if work.out.index not in callers:
            born.setdefault(phase, []).append(work.out)
            dying.setdefault(last[work.out.index], []).append(work.out)
    offsets: dict[int, int] = {}
    memory = {False: FreeList(), True: FreeList()}
    for phase in range(max(phases, default=-1) + 1):
        for buffer in dying.get(phase - 1, []):
            memory[buffer.per_output].give_back(offsets[buffer.index], _whole_lines(buffer.width))
        for buffer in sorted(born.get(phase, []), key=lambda buffer: -buffer.width):  # large ones leave fewer gaps first
            offsets[buffer.index] = memory[buffer.per_output].take(_whole_lines(buffer.width))
    return offsets, memory[False].end, memory[True].end


def _whole_lines(floats: int) -> int:
    return -(-floats * 4 // CACHE_LINE) * CACHE_LINE // 4
