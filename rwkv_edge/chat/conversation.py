"""A conversation with a model: its state stays between turns, so that each one costs only its new tokens."""
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rwkv_edge.chat import storage
from rwkv_edge.chat.choose import choose_format
from rwkv_edge.chat.interface import ChatModel, Format
from rwkv_edge.chat.messages import Message, checked_messages, user_message
from rwkv_edge.chat.reply import Reply
from rwkv_edge.chat.storage import Stored
from rwkv_edge.chat.thinking import opening_of
from rwkv_edge.errors import InputError
from rwkv_edge.state import State
from rwkv_edge.text.sampling import Sampling
from rwkv_edge.text.stop import Stop, stop_strings

MAX_TOKENS = 4096
CHECKPOINTS = 8  # of how many turns the state before them is kept; one takes some megabytes
BEHIND_A_TEXT = "\n\n"  # between what a state to start from has read and the first turn
SEEDS = 2**64


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a conversation, between turns.

    state: has seen `text` but for `pending`, its end; None: let go, and to be made again by reading `text`.
    text: of the first `known` messages, as it was read and written.
    """

    state: State | None
    pending: bytes
    text: str = ""
    known: int = 0


@dataclass(slots=True)
class Turn:
    """begin: how many messages there were before it.  point: where it began."""

    begin: int
    point: Point


class Chat:
    """A conversation; `Model.chat` makes one. Any number of them may use a model at once, each in a thread of its own.

    format: how messages are written for this model (see `rwkv_edge.chat.FORMATS` and docs/chat.md).
    sampling, max_tokens: of the replies to come; may be changed at any time. With a seed, the n-th reply is drawn with
        seed + n, so that a conversation can be repeated and a retry is another answer.
    """

    def __init__(
        self,
        model: ChatModel,
        messages: Iterable[Message | Mapping[str, Any]] = (),
        *,
        format: str | Format | None = None,
        think: str = "off",
        system: str | None = None,
        state: State | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Stop = (),
    ) -> None:
        self._model = model
        self.format = choose_format(model.weights, model.shape, format)
        self.sampling = sampling or self.format.sampling
        self.max_tokens = MAX_TOKENS if max_tokens is None else max_tokens
        self._more_stops = stop_strings(stop)
        self.think = think
        self._start: State | None = model.new_state() if state is None else state.copy()
        self._replies = 0
        self._open: Reply | None = None
        self._begin(_with_system(checked_messages(messages), system))

    def _begin(self, messages: list[Message]) -> None:
        if messages:  # what the format cannot express is refused now, not at the first reply
            asked = messages if messages[-1].role == "user" else [*messages, Message("user", "?")]
            self.format.continued("", asked, 0, self._think)
        self._point = self._first_point()
        self._messages = messages
        self._turns: list[Turn] = []

    def _first_point(self) -> Point:
        if self._start is None:
            raise InputError("the conversation came from a file without the state that it began with: it goes back no further")
        return Point(None, b"")

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, the system prompt first; a reply that is under way is not part of it. `Message.as_dict` for others."""
        return tuple(self._messages)

    @property
    def system(self) -> str:
        """The system prompt, or ""."""
        return self._messages[0].content if self._messages and self._messages[0].role == "system" else ""

    @property
    def think(self) -> str:
        """How the model thinks before it answers: one of `format.think_modes`. Setting it raises InputError for another."""
        return self._think

    @think.setter
    def think(self, mode: str) -> None:
        if mode not in self.format.think_modes:
            modes = ", ".join(self.format.think_modes)
            raise InputError(f"think must be one of {modes} with the format {self.format.name}, got {mode!r:.40}")
        self._think = mode

    @property
    def max_tokens(self) -> int:
        """Where a reply is cut. Setting it raises InputError for what is no integer from 1."""
        return self._max_tokens

    @max_tokens.setter
    def max_tokens(self, count: int) -> None:
        if type(count) is not int or count < 1:
            raise InputError(f"max_tokens must be an integer from 1, got {count!r:.40}")
        self._max_tokens = count

    @property
    def state(self) -> State:
        """A copy of the state, as far as it has read what was said: the end of an answer may still be missing (see
        `TextStream.unseen`), and after going back further than the states that are kept, all of it.
        """
        self._settle()
        return self._read(self._point)[0].copy()

    def ask(self, text: str) -> Reply:
        """Say something; the reply is written while it is read. Raises InputError for an empty message.

        A reply that is still under way is cancelled. One that ends before its first token takes the question back.
        """
        self._settle()
        begin, message = len(self._messages), user_message(text)
        self._messages.append(message)
        try:
            return self._answer(begin, taken_back=begin)
        except BaseException:
            del self._messages[begin:]
            raise

    def reply(self) -> Reply:
        """Answer the last message, which must be a user's: for a conversation that was given as messages."""
        self._settle()
        if not self._messages or self._messages[-1].role != "user":
            raise InputError("there is no user's message to reply to")
        return self._answer(len(self._messages) - 1, taken_back=len(self._messages))

    def undo(self) -> str:
        """Take the last question and its answer back; returns the question. Raises InputError where there is none."""
        self._settle()
        begin = max((n for n, message in enumerate(self._messages) if message.role == "user"), default=None)
        if begin is None:
            raise InputError("nothing was said yet")
        turn = next((turn for turn in self._turns if turn.begin == begin), None)
        self._point = turn.point if turn else self._first_point()
        self._turns = [turn for turn in self._turns if turn.begin < begin]
        asked = self._messages[begin].content
        del self._messages[begin:]
        return asked

    def retry(self) -> Reply:
        """Another answer to the last question; costs reading the question again."""
        return self.ask(self.undo())

    def reset(self, system: str | None = None) -> None:
        """Begin anew, from the same state, with this system prompt (None: the one there was; "": none)."""
        self._settle()
        kept = self.system if system is None else system
        self._begin(_with_system([], kept or None))

    def save(self, path: str | Path) -> None:
        """Write a state file that also holds the conversation. Raises StateError where it cannot be written."""
        self._settle()
        state, pending = self._read(self._point)
        point = self._point
        stored = Stored(self.format.name, self._think, tuple(self._messages), point.text, point.known, pending)
        storage.save(Path(path), state, stored, self._start)

    def load(self, path: str | Path) -> None:
        """Go on with a conversation that `save` wrote. Raises StateError: another model's, or none."""
        self._settle()
        state, stored, began_with = storage.load(Path(path), self._model.load_state)
        self.format = choose_format(self._model.weights, self._model.shape, stored.format)
        self.think = stored.think if stored.think in self.format.think_modes else "off"
        self._start = storage.matching(began_with, [self._start, self._model.new_state()])
        self._messages, self._turns = list(stored.messages), []
        self._point = Point(state, stored.pending, stored.text, stored.known)

    def _answer(self, begin: int, taken_back: int) -> Reply:
        point, text = self._continued()
        state, pending = self._read(point)
        state = state.copy()
        prompt = pending + text[len(point.text) :].encode()
        stops: tuple[str | bytes, ...] = (*self.format.stop, *self._more_stops)
        sampling = self.sampling if self.sampling.seed is None else self._with_seed(self.sampling, self.sampling.seed)
        stream = self._model.stream(prompt, state, max_tokens=self.max_tokens, sampling=sampling, stop=stops)
        self._turns.append(Turn(begin, point))
        self._replies += 1
        ended = partial(self._ended, state=state, text=text, taken_back=taken_back)
        self._open = Reply(stream, opening_of(text), state, ended)
        return self._open

    def _continued(self) -> tuple[Point, str]:
        """The text up to the answer, and from where on it is new: the last point, but for templates that rewrite the past."""
        points = [self._point, *(turn.point for turn in reversed(self._turns)), Point(None, b"")]
        for point in points:
            text = self.format.continued(point.text, self._messages, point.known, self._think)
            if text.startswith(point.text):
                return point, text
        raise AssertionError("every text begins with that of the last point, which is empty")

    def _with_seed(self, sampling: Sampling, seed: int) -> Sampling:
        return replace(sampling, seed=(seed + self._replies) % SEEDS)

    def _read(self, point: Point) -> tuple[State, bytes]:
        """The state there, not to be changed, and the text that it has still to read."""
        if point.state is not None:
            return point.state, point.pending
        start = self._start
        if start is None:
            self._first_point()  # raises
            raise AssertionError
        lead = BEHIND_A_TEXT if start.tokens_seen else ""
        return start, (lead + point.text).encode()

    def _ended(self, reply: Reply, *, state: State, text: str, taken_back: int) -> None:
        """Go on from where a reply ended; from before it, where it has not begun or the state is of no use."""
        self._open = None
        turn = self._turns[-1]
        if reply.failed or (reply.finish_reason == "cancelled" and not reply.written):
            self._turns.pop()
            self._point = turn.point
            del self._messages[taken_back:]
            return
        self._messages.append(Message("assistant", reply.answer, reply.thinking))
        self._point = Point(state, _whole_characters(reply.unseen), text + reply.written, len(self._messages))
        for old in self._turns[:-CHECKPOINTS]:
            old.point = replace(old.point, state=None)

    def _settle(self) -> None:
        if self._open is not None:
            self._open.close()


def _whole_characters(data: bytes) -> bytes:
    """Without the start of one at the end: the answer was cut inside it, and not all vocabularies take a part."""
    for n, byte in enumerate(reversed(data[-4:]), 1):
        if byte < 0x80:
            break
        if byte >= 0xC0:
            return data[:-n] if n < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else data
    return data


def _with_system(messages: list[Message], system: str | None) -> list[Message]:
    if system is None:
        return messages
    if messages and messages[0].role == "system":
        raise InputError("the system prompt is given twice: as system, and as the first message")
    if not isinstance(system, str) or not system.strip():
        raise InputError(f"system must be a text, got {system!r:.40}")
    return [Message("system", system.strip()), *messages]
