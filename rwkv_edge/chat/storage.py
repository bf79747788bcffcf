"""A conversation in a file: a state file (see state_file.py) whose metadata also holds what was said, as JSON."""
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkv_edge.chat.messages import Message, checked_messages
from rwkv_edge.errors import InputError, StateError
from rwkv_edge.state import State, state_file

KEY = "chat"
LONGEST = 4_000_000  # bytes of JSON, which a file's header must have room for twice
MOST_MARKS = 200_000  # commas and brackets in it, which readers of JSON count


@dataclass(frozen=True, slots=True)
class Stored:
    """text: of the first `known` messages, as it was read and written.  pending: its end, which the state has not seen."""

    format: str
    think: str
    messages: tuple[Message, ...]
    text: str
    known: int
    pending: bytes


def save(path: Path, state: State, stored: Stored, began_with: State | None) -> None:
    """Raises StateError: not writable, too long."""
    content = {
        "format": stored.format,
        "think": stored.think,
        "messages": [message.as_dict() for message in stored.messages],
        "text": stored.text,
        "known": stored.known,
        "pending": stored.pending.hex(),
        "began_with": "" if began_with is None else digest(began_with),
    }
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > LONGEST or sum(map(text.count, ",[{")) > MOST_MARKS:
        raise StateError(f"{path}: the conversation is too long for a file; State.save keeps the state without it")
    state.save(path, {KEY: text})


def load(path: Path, load_state: Callable[[Path], State]) -> tuple[State, Stored, str]:
    """State, conversation, and the digest of the state that it began with. `load_state` refuses other models' states."""
    file = state_file.read(path)
    if KEY not in file.metadata:
        raise StateError(f"{path}: holds a state without a conversation; start one from it instead")
    state = load_state(path)
    try:
        content = json.loads(file.metadata[KEY])
        return state, _stored(content), _text(content["began_with"])
    except (ValueError, LookupError, TypeError, RecursionError, InputError):
        raise StateError(f"{path}: its conversation is damaged") from None


def _stored(content: dict[str, Any]) -> Stored:
    messages = tuple(checked_messages(content["messages"]))
    text, known, pending = _text(content["text"]), content["known"], bytes.fromhex(content["pending"])
    if type(known) is not int or not 0 <= known <= len(messages):
        raise ValueError("known")
    return Stored(_text(content["format"]), _text(content["think"]), messages, text, known, pending)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value


def digest(state: State) -> str:
    """Names a state by its numbers."""
    numbers = state.copy().data.astype("<f4")
    return hashlib.sha256(f"{state.fingerprint} {state.tokens_seen}".encode() + numbers.tobytes()).hexdigest()


def matching(wanted: str, states: Iterable[State | None]) -> State | None:
    """The one that `digest` names so, or None."""
    return next((state for state in states if state is not None and digest(state) == wanted), None)
