"""A state as the `rwkv` package has it: a list of arrays, layer by layer."""
from collections.abc import Iterable, MutableSequence
from typing import Any

import numpy as np

from rwkv_edge.compat.arrays import Array
from rwkv_edge.errors import StateError
from rwkv_edge.model import Model
from rwkv_edge.slot import Slot
from rwkv_edge.state import State


class StateList(MutableSequence[Any]):
    """A State seen as a list: for each layer shift [C], wkv, shift [C]; version 4 has its wkv as three vectors a, b, p.

    wkv: [H, key, value] of versions 5 and 6, [H, value, key] of 7. The items are views: writing to one, or setting an item,
    changes the state. There, running the model replaces a list's items and leaves the old tensors alone, so that `list(state)`
    is a copy; here, too: once an item was taken out, the next run works on a copy. `copy.deepcopy` works on either.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._taken_out = False

    @classmethod
    def of(cls, model: Model, items: Iterable[Any]) -> "StateList":
        """From arrays (or CPU tensors). Raises StateError where they are not a state of this model."""
        made, given = cls(model.new_state()), list(items)
        if len(given) != len(made):
            raise StateError(f"the state has {len(given)} items, expected {len(made)}")
        for i, item in enumerate(given):
            made[i] = item
        made._taken_out = False
        return made

    def to_run(self) -> State:
        """The state, for a run that changes it."""
        if self._taken_out:
            self._state, self._taken_out = self._state.copy(), False
        return self._state

    def _items(self) -> list[tuple[Slot, int | None]]:
        """A slot, or one row of version 4's three, for each item."""
        items: list[tuple[Slot, int | None]] = []
        for slot in self._state.slots:
            rows = range(3) if slot.name.endswith("wkv") and len(slot.shape) == 2 else (None,)
            items += [(slot, row) for row in rows]
        return items

    def _view(self, i: int) -> Any:
        slot, row = self._items()[i]
        return self._state[slot.name] if row is None else self._state[slot.name][row]

    def __len__(self) -> int:
        return len(self._items())

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        self._taken_out = True
        return self._view(i).view(Array)

    def __setitem__(self, i: Any, value: Any) -> None:
        if isinstance(i, slice):
            for j, item in zip(range(*i.indices(len(self))), value, strict=True):
                self[j] = item
            return
        view, given = self._view(i), np.asarray(value, np.float32)
        if given.shape != view.shape:
            raise StateError(f"item {i} of the state has shape {list(given.shape)}, expected {list(view.shape)}")
        view[...] = given

    def __delitem__(self, i: Any) -> None:
        raise StateError("a state's items cannot be taken away")

    def insert(self, i: int, value: Any) -> None:
        raise StateError("a state cannot have more items")

    def copy(self) -> "StateList":
        return StateList(self._state.copy())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "StateList":
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return StateList, (self._state.copy(),)

    def __repr__(self) -> str:
        return f"StateList({len(self)} arrays, {self._state.tokens_seen} tokens seen)"
