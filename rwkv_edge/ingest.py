"""A long text into a state, once: in pieces, with checkpoints, so that an interrupted run goes on where it was.

The text is fed in groups of a fixed number of tokens, whatever happened before, and checkpoints lie between groups: the
numbers of a run that was interrupted are those of one that was not, bit for bit. The last group takes what would be too
short for one of its own, because single tokens may be computed in another order.
"""
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rwkv_edge.errors import InputError, StateError
from rwkv_edge.state import State, state_file
from rwkv_edge.tokenizer import Tokenizer
from rwkv_edge.tokenizer.blocks import encode_blocks

TOKENS_A_GROUP = 512
BYTES_A_BLOCK = 1 << 16
SECONDS_BETWEEN_CHECKPOINTS = 10.0
DIGEST = "ingested"  # in a checkpoint's metadata: hash of the state it began with and of all tokens since

Progress = Callable[[int, int], None]  # bytes of the text that were read, and all of them


class Reader(Protocol):
    """What this needs of a `rwkv_edge.Model`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def new_state(self) -> State: ...

    def forward(self, tokens: Sequence[int], state: State) -> object: ...


@dataclass(slots=True)
class Groups:
    """The groups of a text, as they are taken. tokens, digest: of all that were."""

    source: Iterator[list[int]]
    tokens: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def __iter__(self) -> Iterator[list[int]]:
        for group in self.source:
            self.tokens += len(group)
            self.digest.update(np.array(group, "<i4").tobytes())
            yield group


def ingest(
    model: Reader, document: Path, target: Path | None, start: State | None = None, progress: Progress | None = None
) -> State:
    """The state of `model` after the text in the file `document`, from `start` (which is kept) or a new sequence on.

    target: where it is saved in the end. Until then a checkpoint lies beside it (its name and ".part"), from which the next
    call goes on if model, text so far and `start` are the same. None: nothing is written.

    The memory needed does not depend on the text's length (but see `encode_blocks`). Raises InputError (no such text, empty,
    unreadable), StateError (checkpoint of something else, not writable, `target` is no state), TokenizerError.
    """
    size = _size(document)
    state = model.new_state() if start is None else start.copy()
    groups = Groups(in_groups(encode_blocks(model.tokenizer, _blocks(document)), TOKENS_A_GROUP))
    groups.digest.update(f"{state.fingerprint} {state.tokens_seen}".encode() + state.data.tobytes())
    part = _checkpoint_path(target, state)
    done = 0
    if part is not None and part.exists():
        state, done = _resumed(part, state, groups, model)
    elif part is not None:
        _save_checkpoint(part, state, groups)  # tells now, not hours later, that it cannot be written
    saved = time.monotonic()
    for group in groups:
        if progress:
            progress(min(done, size), size)
        model.forward(group, state)
        done += len(model.tokenizer.decode_bytes(group))
        if part is not None and time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            _save_checkpoint(part, state, groups)
            saved = time.monotonic()
    if progress:
        progress(size, size)
    if target is not None:
        state.save(target)
    if part is not None:
        part.unlink(missing_ok=True)
    return state


def in_groups(pieces: Iterable[list[int]], size: int) -> Iterator[list[int]]:
    """Lists of `size` tokens from lists of any lengths; the last has up to 2 * size - 1."""
    waiting: list[int] = []
    for tokens in pieces:
        waiting += tokens
        whole = max(0, len(waiting) // size - 1) * size
        for at in range(0, whole, size):
            yield waiting[at : at + size]
        del waiting[:whole]
    if waiting:
        yield waiting


def _size(document: Path) -> int:
    try:
        size = document.stat().st_size
    except (OSError, ValueError) as error:
        raise _unreadable(document, error) from error
    if not document.is_file():
        raise InputError(f"{document}: is no regular file, expected a text")
    if size == 0:
        raise InputError(f"{document}: is empty, expected a text")
    return size


def _blocks(document: Path) -> Iterator[bytes]:
    try:
        with document.open("rb") as file:
            while block := file.read(BYTES_A_BLOCK):
                yield block
    except OSError as error:
        raise _unreadable(document, error) from error


def _unreadable(document: Path, error: Exception) -> InputError:
    reason = str(getattr(error, "strerror", None) or error).lower()
    return InputError(f"{document}: cannot be read: {reason}")


def _checkpoint_path(target: Path | None, state: State) -> Path | None:
    """None: no checkpoints. Files hold float32, so a state in float64 would not go on from one bit for bit."""
    if target is None:
        return None
    _refuse_what_is_no_state(target)
    return target.with_name(target.name + ".part") if state.array.dtype == np.float32 else None


def _refuse_what_is_no_state(target: Path) -> None:
    """The result may replace an older state, not the text or the model."""
    if os.path.isdir(target):
        raise StateError(f"{target}: is a directory, expected the name of a file to write")
    if os.path.exists(target) and os.path.getsize(target):
        try:
            state_file.read(target)
        except StateError:
            raise StateError(f"{target}: exists and is no saved state; write to another name") from None


def _save_checkpoint(part: Path, state: State, groups: Groups) -> None:
    state.save(part, {DIGEST: groups.digest.hexdigest()})


def _resumed(part: Path, start: State, groups: Groups, model: Reader) -> tuple[State, int]:
    """The checkpoint's state, and how many bytes of text it has seen; the groups that it has are taken from `groups`."""
    file = state_file.read(part)
    state = State(file.data, file.slots, file.fingerprint, file.tokens_seen)
    try:
        state.check_fits(start.slots, start.fingerprint, start.array.dtype)
    except StateError as error:
        raise StateError(f"{part}: {error}; delete this checkpoint, or write to another name") from None
    wanted, done = state.tokens_seen - start.tokens_seen, 0
    remaining = iter(groups)
    while groups.tokens < wanted and (group := next(remaining, None)):
        done += len(model.tokenizer.decode_bytes(group))
    if groups.tokens != wanted or file.metadata.get(DIGEST) != groups.digest.hexdigest():
        what = "is the checkpoint of another text, or of another state to start from"
        raise StateError(f"{part}: {what}; delete it, or write to another name")
    return state, done
