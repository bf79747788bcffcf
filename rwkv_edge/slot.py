"""How a sequence's state lies in memory: one flat array, in which each op that remembers something has a slot."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A piece of a sequence's state: `shape` numbers at `offset` in its flat array; a new sequence has `initial` there."""

    name: str
    shape: tuple[int, ...]
    offset: int
    initial: float | NDArray[Any] = 0.0

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def of(self, state: NDArray[Any]) -> NDArray[Any]:
        """These numbers of a state's flat array, in their shape: a view."""
        return state[self.offset : self.offset + self.size].reshape(self.shape)


def initial_state(slots: Sequence[Slot], dtype: DTypeLike) -> NDArray[Any]:
    """The flat array [sum of slot sizes] of a sequence that has seen nothing."""
    state = np.empty(sum(slot.size for slot in slots), dtype)
    for slot in slots:
        slot.of(state)[...] = slot.initial
    return state
