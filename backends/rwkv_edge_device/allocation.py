"""Where a plan's buffers and vectors lie on the device. Offsets count float32 numbers."""
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge_device.fusion import Fusion

ALIGNMENT = 4  # numbers: 16 bytes


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(slots=True)
class RowPool:
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
    """One memory for all activations: a pool with T rows, behind it one with a row per output.

    kept: indices of the buffers that more than their own fusion needs; the others have no memory.
    """

    kept: set[int]
    tokens: RowPool = field(default_factory=RowPool)
    outputs: RowPool = field(default_factory=RowPool)
    _offsets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: p.Plan, fusions: list[Fusion]) -> "Arena":
        """A buffer's memory can be another's after the last fusion that reads it."""
        last = {index: position for position, fusion in enumerate(fusions) for index in fusion.reads()}
        last |= {buffer.index: len(fusions) for buffer in plan.results}
        # A layer norm reads its row several times: within a fusion too it comes from memory.
        read_back = {op.x.index for op in plan.ops if isinstance(op, p.LayerNorm)}
        arena = cls(last.keys() | read_back)
        for position, fusion in enumerate(fusions):
            for op in fusion.ops:
                if op.out.index in arena.kept and op.out.index not in arena._offsets:
                    arena._offsets[op.out.index] = arena.pool(op.out).take(op.out.width)
                    last.setdefault(op.out.index, position)
            for index in [index for index, end in last.items() if end == position]:
                arena.pool(plan.buffers[index]).free(arena._offsets[index])
        return arena

    def pool(self, buffer: p.Buffer) -> RowPool:
        return self.outputs if buffer.per_output else self.tokens

    def offset(self, buffer: p.Buffer) -> int:
        """Per row of its pool."""
        return self._offsets[buffer.index]

    def floats(self, rows: int, outputs: int) -> int:
        return self.tokens.size * rows + self.outputs.size * outputs


class Vectors:
    """All vectors of a plan in one memory."""

    def __init__(self, plan: p.Plan) -> None:
        self._offsets: dict[int, int] = {}
        parts: list[NDArray[np.float32]] = []
        at = 0
        for op in plan.ops:
            for vector in vectors_of(op):
                if id(vector) not in self._offsets:
                    self._offsets[id(vector)] = at
                    parts.append(np.pad(vector.astype(np.float32), (0, -vector.size % ALIGNMENT)))
                    at += aligned(vector.size)
        self.data = np.concatenate([*parts, np.zeros(ALIGNMENT, np.float32)])

    def offset(self, vector: NDArray[Any]) -> int:
        return self._offsets[id(vector)]


def vectors_of(op: p.Op) -> list[NDArray[Any]]:
    return [value for name in op.__dataclass_fields__ if isinstance(value := getattr(op, name), np.ndarray)]


def host_row_offsets(plan: p.Plan) -> dict[int, int]:
    """Where rows that come from the host lie among a run's inputs (`Embed`, which it looks up, and `Input`): buffer index ->
    offset per token."""
    offsets: dict[int, int] = {}
    at = 0
    for op in plan.ops:
        if isinstance(op, p.Embed | p.Input):
            offsets[op.out.index] = at
            at += op.out.width
    return offsets
