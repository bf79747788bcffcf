"""A sequence's memory: what a model keeps of everything it has read, in one flat array of fixed size."""
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rwkv_edge.errors import ModelFileError, StateError
from rwkv_edge.plan import Slot
from rwkv_edge.weights import safetensors
from rwkv_edge.weights.raw import quoted
from rwkv_edge.weights.tensor import Tensor

FILE_FORMAT = "rwkv_edge.state 1"
MAX_FILE_BYTES = 1 << 30  # the largest RWKV's state has 66 MB
MAX_TOKENS_SEEN = 1 << 62


class Holder(Protocol):
    """Where a state's numbers may be while they are not in its array: on a device."""

    def fetch(self, state: NDArray[Any], release: bool = True) -> None:
        """Bring the array up to date, if it is held; with `release` the array is the only true copy from now on."""
        ...


@dataclass(slots=True, eq=False)
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
        state = cls(np.empty(sum(slot.size for slot in slots), dtype), tuple(slots), fingerprint)
        for slot in state.slots:
            _view(state.data, slot)[...] = slot.initial
        return state

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The slot's numbers in its shape, as a view: writing to it changes the state. StateError: no such slot."""
        for slot in self.slots:
            if slot.name == name:
                return _view(self.data, slot)
        raise StateError(f"a state of {self.fingerprint} has no slot {quoted(name)}; State.names() lists them")

    def names(self) -> tuple[str, ...]:
        return tuple(slot.name for slot in self.slots)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def copy(self) -> "State":
        return State(self._numbers().copy(), self.slots, self.fingerprint, self.tokens_seen)

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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: a tensor a slot, and the rest of this class as metadata.

        Numbers are stored as float32, whatever the backend's precision, so that any other can load them. The file
        appears whole or not at all: it is first written beside its place. Raises StateError where it cannot be written.
        """
        path = Path(path)
        metadata = {"format": FILE_FORMAT, "fingerprint": self.fingerprint, "tokens_seen": str(self.tokens_seen)}
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(self._numbers(), "<f4")
        _write_whole(path, _header(self.slots, metadata), data)

    @classmethod
    def load(cls, path: str | Path) -> "State":
        """Read a file that `save` wrote. Raises StateError for anything else; the numbers themselves may be any."""
        path = Path(path)
        try:
            file = safetensors.read(path)
        except ModelFileError as error:
            raise StateError(f"no saved state: {error}") from error
        fingerprint, tokens_seen = _read_metadata(path, file.metadata)
        slots = _read_slots(path, file.tensors)
        data = np.concatenate([tensor.data.reshape(-1) for tensor in file.tensors.values()])
        return cls(data.astype(np.float32, copy=False), slots, fingerprint, tokens_seen)


def _view(data: NDArray[Any], slot: Slot) -> NDArray[Any]:
    return data[slot.offset : slot.offset + slot.size].reshape(slot.shape)


def _difference(ours: tuple[Slot, ...], wanted: tuple[Slot, ...]) -> str | None:
    """What is different about two layouts, or None."""
    for slot, other in zip(ours, wanted, strict=False):
        if slot.name != other.name:
            return f"it has slot {quoted(slot.name)} where {other.name} is expected"
        if (slot.shape, slot.offset) != (other.shape, other.offset):
            has, expected = f"{list(slot.shape)} at {slot.offset}", f"{list(other.shape)} at {other.offset}"
            return f"its slot {slot.name} is {has}, expected {expected}"
    return None if len(ours) == len(wanted) else f"it has {len(ours)} slots, expected {len(wanted)}"


def _header(slots: tuple[Slot, ...], metadata: dict[str, str]) -> bytes:
    """Everything that comes before the numbers in the file, filled up so that these are aligned."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    for slot in slots:
        offsets = [4 * slot.offset, 4 * (slot.offset + slot.size)]
        entries[slot.name] = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_whole(path: Path, header: bytes, data: NDArray[Any]) -> None:
    """Both under a passing name in the same directory, onto the disk, then renamed: no crash leaves half a file."""
    passing = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        try:
            with open(passing, "xb") as file:
                file.write(header)
                file.write(data.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(passing, path)
        except BaseException:
            passing.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise StateError(f"{path}: the state cannot be saved: {reason}") from error


def _read_metadata(path: Path, metadata: Mapping[str, Any]) -> tuple[str, int]:
    """Fingerprint and tokens_seen."""
    found = metadata.get("format")
    if found != FILE_FORMAT:
        what = "no format" if found is None else f"format {quoted(found)}"
        raise StateError(f"{path}: no saved state: its metadata names {what}, expected {FILE_FORMAT!r}")
    fingerprint, count = metadata.get("fingerprint"), metadata.get("tokens_seen")
    if not isinstance(fingerprint, str):
        raise StateError(f"{path}: its metadata has no fingerprint")
    # The length comes first: Python refuses to read numbers of thousands of digits.
    if not isinstance(count, str) or not (count.isascii() and count.isdecimal() and len(count) < 20):
        raise StateError(f"{path}: its tokens_seen is {quoted(count)}, expected a number")
    if int(count) > MAX_TOKENS_SEEN:
        raise StateError(f"{path}: its tokens_seen is {count}, expected at most {MAX_TOKENS_SEEN}")
    return fingerprint, int(count)


def _read_slots(path: Path, tensors: Mapping[str, Tensor]) -> tuple[Slot, ...]:
    """The file's tensors as slots, in the order of its header."""
    slots: list[Slot] = []
    offset = 0
    for name, tensor in tensors.items():
        if tensor.format != "f32":
            raise StateError(f"{path}: slot {quoted(name)} is {tensor.format.upper()}, expected F32")
        slots.append(Slot(name, tensor.shape, offset))
        offset += tensor.size
    if not slots:
        raise StateError(f"{path}: the state is empty")
    if 4 * offset > MAX_FILE_BYTES:
        raise StateError(f"{path}: the state has {4 * offset} bytes, expected at most {MAX_FILE_BYTES}")
    return tuple(slots)
