"""Where a text ends: at the first stop string, wherever the borders between tokens fall."""
from collections.abc import Iterable, Sequence
from typing import cast

from rwkv_edge.errors import InputError

Stop = str | bytes | Sequence[str | bytes]  # one stop string or several


def stop_strings(stop: Stop) -> tuple[bytes, ...]:
    """As bytes, text in UTF-8. Raises InputError for an empty one, or for what is no text."""
    given: Iterable[object] = (stop,) if isinstance(stop, str | bytes) else stop
    if not isinstance(given, Iterable):
        raise InputError(f"stop must be text or several texts, got {type(stop).__name__}")
    strings = tuple(_bytes(one) for one in given)
    if b"" in strings:
        raise InputError("stop must not be empty: it would end every text before it begins")
    return strings


def _bytes(text: object) -> bytes:
    if not isinstance(text, str | bytes):
        raise InputError(f"stop must be text or several texts, got {type(text).__name__} among them")
    try:
        return text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise InputError(f"stop must be valid Unicode, got {text!r:.40}") from error


def stops_of_each(stop: Stop | Sequence[Stop], count: int) -> list[Stop]:
    """For each of `count` sequences: the same for all, unless `stop` is a list of lists, one for each."""
    if isinstance(stop, str | bytes) or all(isinstance(one, str | bytes) for one in stop):
        return [cast(Stop, stop)] * count
    return list(stop)


class StopFinder:
    """Takes a text in pieces of any size and lets through what is before the first stop string.

    That is the one that ends first, and of those that end together the longest, so the outcome does not depend on how
    the text was cut into pieces. What may be the start of a stop string is held back until it is none.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        self.strings = tuple(strings)
        self.held = b""
        self.found: bytes | None = None

    def push(self, data: bytes) -> bytes:
        """What is let through now: everything up to the stop string, once there is one (`found`)."""
        if not self.strings:
            return data
        text = self.held + data
        ends = [(at + len(stop), at, stop) for stop in self.strings if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self.held = b""
            return text[:at]
        free = len(text) - max(_overlap(text, stop) for stop in self.strings)
        self.held = text[free:]
        return text[:free]

    def finish(self) -> bytes:
        """What was held back, for a text that ends here."""
        rest, self.held = self.held, b""
        return rest


def _overlap(text: bytes, stop: bytes) -> int:
    """How many bytes at the end of `text` are a start of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
