"""Telling what a model thinks from what it answers, while the text comes."""
import re
from collections.abc import Iterator
from typing import NamedTuple

BEGIN, END = "<think>", "</think>"
OPENING = re.compile(r"<think(?:>\s*(?:</think>?\s*)?)?\Z")


class Piece(NamedTuple):
    """A piece of a reply; `thinking` says of which part."""

    text: str
    thinking: bool = False


def opening_of(prompt: str) -> str:
    """The start of the thoughts that a prompt ends in, or ""."""
    match = OPENING.search(prompt)
    return match.group() if match else ""


class ThinkSplitter:
    """Takes the text of a turn in pieces: `<think>thoughts</think>answer`, or an answer alone.

    White space around both parts is dropped at their start. What may be part of a mark is held back until it is clear.
    """

    def __init__(self) -> None:
        self._held = ""
        self._part = "start"  # then "thinking" and "answer", or "answer" at once
        self._begun = False  # whether the part has let out anything: white space before it does not count

    def push(self, text: str) -> Iterator[Piece]:
        self._held += text
        if self._part == "start":
            self._held = self._held.lstrip()
            if self._held.startswith(BEGIN):
                self._held, self._part = self._held[len(BEGIN) :], "thinking"
            elif not BEGIN.startswith(self._held):
                self._part = "answer"
        if self._part == "thinking":
            thoughts, end, rest = self._held.partition(END)
            held = 0 if end else _overlap(thoughts)
            yield from self._let_out(thoughts[: len(thoughts) - held], thinking=True)
            self._held = rest if end else thoughts[len(thoughts) - held :]
            if end:
                self._part, self._begun = "answer", False
        if self._part == "answer":
            yield from self._let_out(self._held, thinking=False)
            self._held = ""

    def finish(self) -> Iterator[Piece]:
        """What was held back, for a text that ends here."""
        rest, self._held = self._held, ""
        yield from self._let_out(rest, thinking=self._part == "thinking")

    def _let_out(self, text: str, *, thinking: bool) -> Iterator[Piece]:
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            yield Piece(text, thinking)


def _overlap(text: str) -> int:
    """How many characters at the end of `text` are a start of the mark that ends thoughts."""
    return next((n for n in range(min(len(text), len(END) - 1), 0, -1) if text.endswith(END[:n])), 0)
