"""A sequence's memory: what a model keeps of everything it has read, in one flat array of fixed size."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rwkv_edge.errors import InputError, StateError, quoted
from rwkv_edge.slot import Slot, initial_state
from rwkv_edge.state.blending import blended


class Holder(Protocol):
    """Where a state's numbers may be while they are not in its array: on a device."""

    def fetch(self, state: NDArray[Any], release: bool = True) -> None:
        """Bring the array up to date, if it is held; with `release` the array is the only true copy from now on."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class State:
    """What one sequence left in the model. Running the model changes it in place; `copy` makes a branch.

    array: the host's memory for the numbers. It is out of date while `holder`, a backend with memory of its own, has them.
    slots: which part of `data` is what; `state["blocks.0.att.wkv"]` is a view of one, in its shape.
    fingerprint: the model it belongs to (see fingerprint.py).  tokens_seen: how many tokens were fed.
    """

    array: NDArray[Any]
    slots: tuple[Slot, ...]
    fingerprint: str
    tokens_seen: int = 0
    holder: Holder | None = None

    def __repr__(self) -> str:
        return f"<State of {self.fingerprint}: {self.tokens_seen} tokens seen, {self.nbytes / 1e6:.1f} MB>"

    @property
    def data(self) -> NDArray[Any]:
        """float32 (float64 from a backend of that precision) [sum of slot sizes], contiguous; writing to it changes the state.

        After the next run on a backend with memory of its own, ask for it again: an old view is out of date there.
        """
        if self.holder is not None:
            self.holder.fetch(self.array)
            self.holder = None
        return self.array

    @data.setter
    def data(self, array: NDArray[Any]) -> None:
        self.array, self.holder = array, None

    def _numbers(self) -> NDArray[Any]:
        """The array, up to date, for reading only: whoever holds the state goes on doing so."""
        if self.holder is not None:
            self.holder.fetch(self.array, release=False)
        return self.array

    @classmethod
    def initial(cls, slots: Sequence[Slot], dtype: DTypeLike, fingerprint: str) -> "State":
        """The state of a sequence that has seen nothing."""
        return cls(initial_state(slots, dtype), tuple(slots), fingerprint)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The slot's numbers in its shape, as a view: writing to it changes the state. StateError: no such slot."""
        for slot in self.slots:
            if slot.name == name:
                return slot.of(self.data)
        raise StateError(f"a state of {self.fingerprint} has no slot {quoted(name)}; State.names() lists them")

    def names(self) -> tuple[str, ...]:
        return tuple(slot.name for slot in self.slots)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def copy(self) -> "State":
        return State(self._numbers().copy(), self.slots, self.fingerprint, self.tokens_seen)

    __copy__ = copy  # a shallow one would go on in the same array

    def __reduce__(self) -> tuple[type["State"], tuple[Any, ...]]:
        """For pickle and deepcopy: the numbers, wherever they are, and not who holds them."""
        return State, (self._numbers(), self.slots, self.fingerprint, self.tokens_seen)

    def astype(self, dtype: DTypeLike) -> "State":
        """A copy with numbers of another type, for a backend of another precision."""
        return State(self._numbers().astype(dtype), self.slots, self.fingerprint, self.tokens_seen)

    def check_fits(self, slots: tuple[Slot, ...], fingerprint: str, dtype: DTypeLike | None = None) -> None:
        """Raises StateError, saying what differs, unless a model with these slots (and numbers) can go on from here."""
        if self.fingerprint != fingerprint:
            raise StateError(f"the state belongs to {quoted(self.fingerprint)}, this model is {quoted(fingerprint)}")
        if dtype is not None and self.array.dtype != np.dtype(dtype):
            held, wanted = self.array.dtype, np.dtype(dtype)
            raise StateError(f"the state holds {held}, the model works in {wanted}: use state.astype({wanted.name!r})")
        if self.slots is slots:
            return
        if problem := _difference(self.slots, slots):
            raise StateError(f"the state does not fit this model: {problem}")
        self.slots = slots  # the next check, one token later, is by identity

    def blend(self, other: "State", weight: float) -> "State":
        """A new state between this one (weight 0) and `other` (weight 1), both left as they are; maths: state/blending.py.

        tokens_seen is the larger of both. Raises StateError: a state of another model; InputError: a weight outside 0 to 1.
        """
        if not isinstance(weight, int | float | np.floating) or not 0 <= weight <= 1:
            raise InputError(f"the weight of a blend must be a number from 0 to 1, got {weight!r}")
        if self.fingerprint != other.fingerprint:
            ours, theirs = quoted(self.fingerprint), quoted(other.fingerprint)
            raise StateError(f"states of two models cannot be blended: one belongs to {ours}, the other to {theirs}")
        other.check_fits(self.slots, self.fingerprint, self.array.dtype)
        a, b = self._numbers(), other._numbers()
        data = blended(a, b, weight, self.slots) if 0 < weight < 1 else (b if weight else a).copy()
        return State(data, self.slots, self.fingerprint, max(self.tokens_seen, other.tokens_seen))

    def save(self, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file: a tensor a slot, and the rest of this class as metadata, with what is in `extra`.

        Numbers are stored as float32, whatever the backend's precision, so that any other can load them. The file
        appears whole or not at all: it is first written beside its place. Raises StateError where it cannot be written.
        """
        from rwkv_edge.state import state_file  # with what files take, JSON for instance

        metadata = {"fingerprint": self.fingerprint, "tokens_seen": str(self.tokens_seen), **(extra or {})}
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(self._numbers(), "<f4")
        state_file.write(Path(path), self.slots, data, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "State":
        """Read a file that `save` wrote. Raises StateError for anything else; the numbers themselves may be any.

        `Model.load_state` also reads state-tuned files, and refuses the states of other models.
        """
        from rwkv_edge.state import state_file

        file = state_file.read(Path(path))
        return cls(file.data, file.slots, file.fingerprint, file.tokens_seen)


def _difference(ours: tuple[Slot, ...], wanted: tuple[Slot, ...]) -> str | None:
    """What is different about two layouts, or None."""
    for slot, other in zip(ours, wanted, strict=False):
        if slot.name != other.name:
            return f"it has slot {quoted(slot.name)} where {other.name} is expected"
        if (slot.shape, slot.offset) != (other.shape, other.offset):
            has, expected = f"{list(slot.shape)} at {slot.offset}", f"{list(other.shape)} at {other.offset}"
            return f"its slot {slot.name} is {has}, expected {expected}"
    return None if len(ours) == len(wanted) else f"it has {len(ours)} slots, expected {len(wanted)}"
