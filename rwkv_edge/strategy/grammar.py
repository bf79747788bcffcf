"""The text of a strategy, read into parts.

    STRATEGY  PART ("->" PART)* ["<" SIZE]
    PART      DEVICE[":" WHICH] [FORMAT] ["*" LAYERS ["+"]]
    SIZE      a number and KB, MB, GB, KiB, MiB or GiB: as much memory as the model may take

A superset of ChatRWKV's: `cuda fp16i8 *10 -> cpu fp32`, `cuda fp16 *10+`. DEVICE: "auto", a backend, or one of ELSEWHERE.
"""
import os
import re
from dataclasses import dataclass, field

from rwkv_edge import registry
from rwkv_edge.errors import StrategyError
from rwkv_edge.strategy.words import WEIGHT_FORMATS, words_for

ELSEWHERE = ("cuda", "mps", "dml")  # what strategies written for the `rwkv` package run on
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
BUDGET = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]+)\s*")
DEFAULT = "RWKV_EDGE_STRATEGY"
MOST_DIGITS = 9  # of a number of layers: Python is slow to read thousands


@dataclass(frozen=True, slots=True)
class Quote:
    """What messages point at. text: the whole strategy.  at: of a character in it, from 0."""

    text: str
    at: int

    def wrong(self, problem: str) -> StrategyError:
        return StrategyError(f'strategy "{self.text}", character {self.at + 1}: {problem}')


@dataclass(frozen=True, slots=True)
class Part:
    """What runs some consecutive layers.

    device: a backend's name, or one of ELSEWHERE; None: the best here.  which: one of its devices, or None for its best.
    weight_format, precision: see WEIGHT_FORMATS.
    layers: how many, the head counts as one; None: an even share of what is left.
    streams: takes all layers that are left, too, but reads those from the file at every step.
    quote: where `which` was read, or the device where there is none.
    """

    device: str | None = None
    weight_format: str | None = None
    precision: str | None = None
    which: str | None = None
    layers: int | None = None
    streams: bool = False
    quote: Quote | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Strategy:
    """parts: in the order of their layers.  budget: bytes of memory that the model may take, or None."""

    parts: tuple[Part, ...]
    budget: int | None = None

    @property
    def weight_format(self) -> str | None:
        """Of all layers, where these are all in one."""
        whole = len(self.parts) == 1 and not self.parts[0].streams and self.budget is None
        return self.parts[0].weight_format if whole else None


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    at: int  # of its first character in the whole strategy, from 0


class _Reader:
    """One strategy text; `wrong` makes the error that points into it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, at: int, problem: str) -> StrategyError:
        return Quote(self.text, at).wrong(problem)

    def strategy(self) -> Strategy:
        if not self.text.strip():
            raise StrategyError('the strategy is empty; expected for example "auto", "cpu" or "cpu fp32"')
        text, sign, size = self.text.partition("<")
        parts = [self._part(words, end) for words, end in _words_of_parts(text)]
        for (words, _), part in zip(_words_of_parts(text), parts, strict=True):
            if len(parts) > 1 and part.device is None:
                raise self.wrong(words[0].at, '"auto" stands alone; name the backends of a split')
        self._only_one_streams(text, parts)
        if not sign:
            return Strategy(tuple(parts))
        if len(parts) > 1 or parts[0].layers is not None:
            raise self.wrong(len(text), "a memory budget goes with one device and no number of layers")
        return Strategy(tuple(parts), self._budget(size, len(text) + 1))

    def _part(self, words: list[_Word], end: int) -> Part:
        if not words:
            raise self.wrong(end, 'expected a device, for example "cpu"')
        device, which = self._device(words[0])
        quote = Quote(self.text, words[0].at + (len(f"{device}:") if which else 0))
        rest = words[1:]
        weight_format = precision = None
        if rest and not rest[0].text.startswith("*"):
            word = rest.pop(0)
            if device is None:
                raise self.wrong(word.at, f'"auto" takes no format, got {word.text!r}')
            if word.text not in words_for(device):
                known = ", ".join(words_for(device))
                raise self.wrong(word.at, f"{device} has no format {word.text!r}; expected one of: {known}")
            weight_format, precision = WEIGHT_FORMATS[word.text]
        layers, streams = self._layers(rest.pop(0), device) if rest else (None, False)
        if rest:
            raise self.wrong(rest[0].at, f"{rest[0].text!r} is one word too many after DEVICE FORMAT *LAYERS")
        return Part(device, weight_format, precision, which, layers, streams, quote)

    def _device(self, word: _Word) -> tuple[str | None, str | None]:
        name, colon, which = word.text.partition(":")
        if word.text == "auto":
            return None, None
        if name not in (*registry.installed(), *ELSEWHERE):
            known = ", ".join(["auto", *sorted(registry.installed())])
            raise self.wrong(word.at, f"no device {name!r}; there are: {known}")
        if colon and not which:
            at = word.at + len(name) + 1
            raise self.wrong(at, f'expected a number or a name of a device behind "{name}:"')
        return name, which or None

    def _layers(self, word: _Word, device: str | None) -> tuple[int, bool]:
        digits, plus = word.text[1:].removesuffix("+"), word.text.endswith("+")
        if not word.text.startswith("*"):
            raise self.wrong(word.at, f"{word.text!r} is one word too many after DEVICE FORMAT; *N is a number of layers")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS):
            raise self.wrong(word.at, f'expected a number of layers such as "*10" or "*10+", got {word.text!r}')
        if device is None:
            raise self.wrong(word.at, f'"auto" takes no number of layers, got {word.text!r}')
        if int(digits) == 0 and not plus:
            raise self.wrong(word.at, 'a part needs at least one layer; "*0+" streams all of them')
        return int(digits), plus

    def _only_one_streams(self, text: str, parts: list[Part]) -> None:
        streaming = [words for (words, _), part in zip(_words_of_parts(text), parts, strict=True) if part.streams]
        if len(streaming) > 1:
            raise self.wrong(streaming[1][-1].at, 'only one part can take the rest with "+"')

    def _budget(self, size: str, at: int) -> int:
        match = BUDGET.fullmatch(size)
        if match is None or len(size) > 40:
            raise self.wrong(at, f'expected a size such as "<1.5GB" or "<800MB", got {size.strip()[:40]!r}')
        number, unit = match.groups()
        if unit.lower() not in UNITS:
            raise self.wrong(at + match.start(2), f"no unit of memory {unit!r}; expected KB, MB, GB, KiB, MiB or GiB")
        nbytes = int(float(number) * UNITS[unit.lower()])
        if nbytes < 1:
            raise self.wrong(at + match.start(1), "a memory budget is more than nothing")
        return nbytes


def _words_of_parts(text: str) -> list[tuple[list[_Word], int]]:
    """The words between arrows, and where each part ends."""
    parts, begin = [], 0
    for piece in text.split("->"):
        words = [_Word(match.group(), begin + match.start()) for match in re.finditer(r"\S+", piece)]
        parts.append((words, begin + len(piece)))
        begin += len(piece) + len("->")
    return parts


def default_strategy() -> Strategy:
    """What runs a model that nobody said anything about. Raises StrategyError for a mistake in the environment."""
    try:
        return parse(os.environ.get(DEFAULT, "").strip() or "auto")
    except StrategyError as error:
        raise StrategyError(f"{DEFAULT}: {error}") from error


def parse(text: str) -> Strategy:
    """Read a strategy string. Raises StrategyError that points at the character that is wrong."""
    if not isinstance(text, str):
        raise StrategyError(f"a strategy is text, got {type(text).__name__}")
    return _Reader(text).strategy()
