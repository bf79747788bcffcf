"""Where a plan's buffers and vectors lie on the device. Offsets count float32 numbers."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge_device.stages import Stage

ALIGNMENT = 4  # numbers: 16 bytes


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(slots=True)
class Region:
    """Memory per row for buffers that have the same number of rows."""

    size: int = 0
    _taken: dict[int, int] = field(default_factory=dict)  # begin -> end

    def take(self, width: int) -> int:
        """The lowest gap that is wide enough."""
        at = 0
        for begin, end in sorted(self._taken.items()):
            if begin - at >= aligned(width):
                break
            at = max(at, end)
        self._taken[at] = at + aligned(width)
        self.size = max(self.size, at + aligned(width))
        return at

    def free(self, at: int) -> None:
        del self._taken[at]


@dataclass(slots=True)
class Arena:
    """One memory for all activations: a region with T rows, behind it one with a row per output.

    kept: indices of the buffers that more than their own stage needs; the others have no place.
    """

    kept: set[int]
    tokens: Region = field(default_factory=Region)
    outputs: Region = field(default_factory=Region)
    _places: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: p.Plan, stages: list[Stage]) -> "Arena":
        """A buffer's place can be another's after the last stage that reads it."""
        last = {index: position for position, stage in enumerate(stages) for index in stage.reads()}
        last |= {buffer.index: len(stages) for buffer in plan.results}
        # A layer norm reads its row several times: within a stage too it comes from memory.
        read_back = {op.x.index for op in plan.ops if isinstance(op, p.LayerNorm)}
        arena = cls(last.keys() | read_back)
        for position, stage in enumerate(stages):
            for op in stage.ops:
                if op.out.index in arena.kept and op.out.index not in arena._places:
                    arena._places[op.out.index] = arena.region(op.out).take(op.out.width)
                    last.setdefault(op.out.index, position)
            for index in [index for index, end in last.items() if end == position]:
                arena.region(plan.buffers[index]).free(arena._places[index])
        return arena

    def region(self, buffer: p.Buffer) -> Region:
        return self.outputs if buffer.per_output else self.tokens

    def place(self, buffer: p.Buffer) -> int:
        """Per row of its region."""
        return self._places[buffer.index]

    def floats(self, rows: int, outputs: int) -> int:
        return self.tokens.size * rows + self.outputs.size * outputs


class Vectors:
    """All vectors of a plan in one memory."""

    def __init__(self, plan: p.Plan) -> None:
        self._places: dict[int, int] = {}
        parts: list[NDArray[np.float32]] = []
        at = 0
        for op in plan.ops:
            for vector in vectors_of(op):
                if id(vector) not in self._places:
                    self._places[id(vector)] = at
                    parts.append(np.pad(vector.astype(np.float32), (0, -vector.size % ALIGNMENT)))
                    at += aligned(vector.size)
        self.data = np.concatenate([*parts, np.zeros(ALIGNMENT, np.float32)])

    def place(self, vector: NDArray[Any]) -> int:
        return self._places[id(vector)]


def vectors_of(op: p.Op) -> list[NDArray[Any]]:
    return [value for name in op.__dataclass_fields__ if isinstance(value := getattr(op, name), np.ndarray)]


def host_row_places(plan: p.Plan) -> dict[int, int]:
    """Where rows that come from the host lie among a run's inputs (`Embed`, which it looks up, and `Input`): buffer index ->
    offset per token."""
    places: dict[int, int] = {}
    at = 0
    for op in plan.ops:
        if isinstance(op, p.Embed | p.Input):
            places[op.out.index] = at
            at += op.out.width
    return places
