"""A state as a safetensors file: a tensor a slot, and in the metadata whose state it is."""
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, StateError, quoted
from rwkv_edge.slot import Slot
from rwkv_edge.weights import read_raw
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Tensor

FILE_FORMAT = "rwkv_edge.state 1"
MAX_FILE_BYTES = 1 << 30  # the largest RWKV's state has 66 MB
MAX_TOKENS_SEEN = 1 << 62
TUNED = ".att.time_state"  # how the tensors of a state-tuned file end


@dataclass(frozen=True, slots=True)
class StateFile:
    """What a file holds. data: float32 [sum of slot sizes].  metadata: all of the file's, for who put more into it."""

    data: NDArray[np.float32]
    slots: tuple[Slot, ...]
    fingerprint: str
    tokens_seen: int
    metadata: Mapping[str, Any]


def write(path: Path, slots: Sequence[Slot], data: NDArray[np.float32], metadata: Mapping[str, str]) -> None:
    """`metadata`: with "fingerprint" and "tokens_seen". The file appears whole or not at all; StateError where it cannot."""
    _write_whole(path, _header(slots, {"format": FILE_FORMAT, **metadata}), data)


def read(path: Path) -> StateFile:
    """A file that `write` wrote. Raises StateError for anything else, saying what it is if that is known."""
    if not path.exists():
        raise StateError(f"{path}: there is no such file, expected a saved state")
    if path.is_dir():
        raise StateError(f"{path}: is a directory, expected a saved state")
    try:
        file = read_raw(path)
    except ModelFileError as error:
        raise StateError(f"no saved state: {error}") from error
    if file.source != "safetensors" or file.metadata.get("format") != FILE_FORMAT:
        raise StateError(f"{path}: {_what_else(file)}")
    fingerprint, tokens_seen = _identity(path, file.metadata)
    slots = _read_slots(path, file.tensors)
    data = np.concatenate([tensor.data.reshape(-1) for tensor in file.tensors.values()])
    return StateFile(data.astype(np.float32, copy=False), slots, fingerprint, tokens_seen, file.metadata)


def _what_else(file: RawFile) -> str:
    """What somebody took for a saved state."""
    if any(name.endswith(TUNED) for name in file.tensors) and not _is_model(file):
        return "holds a tuned initial state, not a saved one; Model.load_state reads both"
    if _is_model(file):
        return "is a model, not a saved state: expected a file that State.save wrote"
    found = file.metadata.get("format")
    what = "no format" if found is None else f"format {quoted(found)}"
    return f"no saved state: its metadata names {what}, expected {FILE_FORMAT!r}"


def _is_model(file: RawFile) -> bool:
    return file.source in ("gguf", "rwkv.cpp") or any("emb" in name for name in file.tensors)


def _header(slots: Sequence[Slot], metadata: Mapping[str, str]) -> bytes:
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
    import secrets  # slow to import, and few write states

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


def _identity(path: Path, metadata: Mapping[str, Any]) -> tuple[str, int]:
    """Fingerprint and tokens_seen."""
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
