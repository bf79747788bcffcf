"""Sequences that are being continued: one as a stream of text, or several that take their steps together.

What is emitted and what a state has seen are kept apart. A token is emitted when it is drawn and fed to the model only when
the next one is wanted; and the tokens of a stop string are fed, to find out whether it becomes one, but never emitted.
"""
import codecs
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import InputError
from rwkv_edge.feeding import piece_length
from rwkv_edge.state import State
from rwkv_edge.text.sampling import Sampler
from rwkv_edge.text.stop import StopFinder
from rwkv_edge.tokenizer import END_OF_DOCUMENT, Tokenizer

T = TypeVar("T")
FinishReason = Literal["stop", "length", "cancelled"]
Logits = NDArray[Any]
Utf8 = codecs.getincrementaldecoder("utf-8")
ForwardBatch = Callable[[Sequence[Sequence[int]], Sequence[State]], tuple[list[Logits], list[State]]]


@dataclass(slots=True, eq=False)
class Continuation:
    """A prompt and what a model makes of it.

    state: has seen the prompt but for `todo`, and the first `seen` bytes of `text`.
    keep_state: somebody goes on from the state afterwards, so it must end where the emitted text does.
    todo: tokens to feed next: the rest of the prompt, then the token that was drawn last.
    text: what was drawn so far, as bytes; `emitted` of them were let out: not what may be, or is, a stop string.
    behind: (bytes of `text` seen, copy of the state) before each token that was not emitted in full when it was fed.
    """

    todo: Sequence[int]
    state: State
    sampler: Sampler
    tokenizer: Tokenizer
    max_tokens: int
    stops: StopFinder
    keep_state: bool
    finish_reason: FinishReason | None = None
    tokens: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    seen: int = 0
    emitted: int = 0
    behind: list[tuple[int, State]] = field(default_factory=list)
    utf8: codecs.IncrementalDecoder = field(default_factory=lambda: Utf8("replace"))

    def fed(self, count: int) -> None:
        """The state has seen `count` more tokens of `todo`."""
        self.todo = self.todo[count:]
        if not self.todo:
            self.seen = len(self.text)

    def draw(self, logits: Logits) -> str | None:
        """Draw the next token: the text that it lets out, perhaps ""; None where the document ended and nothing was held."""
        token = self.sampler.sample(logits)
        if token == END_OF_DOCUMENT:
            return self._finished("stop", self.stops.finish()) or None
        start = len(self.text)
        data = self.tokenizer.decode_bytes((token,))
        self.tokens.append(token)
        self.text += data
        out = self.stops.push(data)
        if self.stops.found is not None:
            return self._finished("stop", out)
        if len(self.tokens) == self.max_tokens:
            self.todo = [token] if self.keep_state else []
            return self._finished("length", out + self.stops.finish())
        self.todo = [token]
        self.emitted += len(out)
        self._remember(start)
        return self.utf8.decode(out)

    def _remember(self, start: int) -> None:
        """Where the token that begins at `start` might turn out not to belong to the text, keep what was before it."""
        needed = [n for n, (at, _) in enumerate(self.behind) if at <= self.emitted]
        del self.behind[: needed[-1] if needed else 0]
        if self.keep_state and self.emitted < len(self.text):
            self.behind.append((start, self.state.copy()))
        elif self.emitted == len(self.text):
            self.behind.clear()

    def _finished(self, reason: FinishReason, out: bytes) -> str:
        self.finish_reason = reason
        self.emitted += len(out)
        return self.utf8.decode(out, final=True)

    def settle(self) -> None:
        """No more tokens are wanted: the state goes back to where all that it has seen was emitted."""
        self.finish_reason = self.finish_reason or "cancelled"
        before = [(at, state) for at, state in self.behind if at <= self.emitted]
        if self.seen > self.emitted and before:
            self.seen, kept = before[-1]
            np.copyto(self.state.data, kept.data)
            self.state.tokens_seen = kept.tokens_seen
        self.behind.clear()

    @property
    def unseen(self) -> bytes:
        """Of the prompt and the emitted text, the end that the state has not seen."""
        prompt = b"" if self.tokens else self.tokenizer.decode_bytes([int(token) for token in self.todo])
        return prompt + bytes(self.text[self.seen : self.emitted])


def steps(
    forward_batch: ForwardBatch, continuations: Sequence[Continuation], tokens_at_once: int, cancelled: Callable[[], bool]
) -> Generator[tuple[int, str], None, None]:
    """(number of the sequence, piece of its text), until all have ended; each step is one run of the model for all of them."""
    active = list(enumerate(continuations))
    while active and not cancelled():
        share = max(1, tokens_at_once // len(active))
        pieces = [one.todo[: piece_length(len(one.todo), share)] for _, one in active]
        logits, _ = forward_batch(pieces, [one.state for _, one in active])
        for (_, one), piece in zip(active, pieces, strict=True):
            one.fed(len(piece))
        for (number, one), row in zip(active, logits, strict=True):
            if not one.todo and one.finish_reason is None and (out := one.draw(row)) is not None:
                yield number, out
        active = [(number, one) for number, one in active if one.todo]


def for_each(name: str, values: Sequence[T], count: int) -> Sequence[T]:
    """Raises InputError unless there is one for each prompt."""
    if len(values) != count:
        raise InputError(f"{count} prompts need as many {name}, got {len(values)}")
    return values


class BatchStream(Iterator[tuple[int, str]]):
    """Pieces of several texts as they come: (number of the prompt, text).

    continuations: the sequences, in the order of their prompts.

    `cancel` may be called from any thread, and from a signal handler; `close` cancels and waits. Either ends the stream
    within one token (within one piece of a prompt). A `with` block closes it.
    """

    def __init__(self, forward_batch: ForwardBatch, continuations: Sequence[Continuation], tokens_at_once: int) -> None:
        self.continuations = tuple(continuations)
        self._cancelled = threading.Event()
        self._lock = threading.RLock()
        self._steps = steps(forward_batch, self.continuations, tokens_at_once, self._cancelled.is_set)

    def __next__(self) -> tuple[int, str]:
        with self._lock:
            if not self._cancelled.is_set() and (step := next(self._steps, None)) is not None:
                return step
            self._settle()
        raise StopIteration

    def cancel(self) -> None:
        """No new run of the model is started; returns at once."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel, and wait for a run that is under way in another thread. Calling it again does nothing."""
        self.cancel()
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        self._steps.close()
        for one in self.continuations:
            one.settle()

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TextStream(Iterator[str]):
    """The pieces of one text as they come, one a token ("" while a character, or what may be a stop string, is not whole).

    After the last piece, or after `cancel` or `close` (see `BatchStream`):

    finish_reason: "stop" (the end of the document or a stop string), "length" (max_tokens) or "cancelled"; None before.
    stop_string: the one that ended it, or None.
    tokens: what was drawn, with the tokens of the stop string, without the end of the document.
    unseen: the end of the emitted text that the state has not seen. Whatever ended the stream, a state that was passed in
        has seen the prompt and the emitted text without this, and nothing else: it never ends inside a stop string or after
        it. To go on, put `unseen` in front of the next prompt; the text is then cut into tokens as if it were read at once.
    """

    def __init__(self, batch: BatchStream) -> None:
        self._batch = batch
        (self._one,) = batch.continuations

    def __next__(self) -> str:
        return next(self._batch)[1]

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._one.finish_reason

    @property
    def stop_string(self) -> str | None:
        found = self._one.stops.found
        return None if found is None else found.decode("utf-8", errors="replace")

    @property
    def tokens(self) -> Sequence[int]:
        return self._one.tokens

    @property
    def unseen(self) -> bytes:
        return self._one.unseen

    def cancel(self) -> None:
        """See `BatchStream.cancel`."""
        self._batch.cancel()

    def close(self) -> None:
        """See `BatchStream.close`."""
        self._batch.close()

    def __enter__(self) -> "TextStream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
