"""Greedy longest-match tokenization, the rule of the World vocabulary, for any list of byte tokens.

The rule: from the front, take the longest token that the rest of the text starts with. In place of a walk through
trie nodes, the three bytes ahead give the lengths worth trying, and each try is one slice and one lookup in a hash
table. Nested dictionaries match unseen text up to twice as fast, but for the World vocabulary they take five times the
memory (26 MB) and four times as long to build; and most text is made of pieces met before, which are remembered.
"""

from collections.abc import Callable, Sequence
from itertools import chain, groupby

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer.chunks import cut, cuts_are_safe
from rwkv_edge.tokenizer.table import TokenTable
from rwkv_edge.tokenizer.text import text_bytes

LONGEST_TOKEN = 1024
"""Bytes a token may have (World: 128); together with the table of lengths it bounds the work for each byte of text."""


class TrieTokenizer(TokenTable):
    """A vocabulary of byte strings, matched longest first."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """`tokens`: the bytes of each id, in order; `b""` for an id that text never produces.

        Raises TokenizerError where two ids have the same bytes or a token is longer than `LONGEST_TOKEN`.
        """
        super().__init__(tokens)
        self._ids = {token: i for i, token in enumerate(self._tokens) if token}
        if len(self._ids) + self._tokens.count(b"") != self.vocab_size:
            raise TokenizerError(_duplicate(self._tokens))
        self._lengths = _lengths_by_prefix(self._ids)
        self.longest = max(map(len, self._ids), default=0)  # bytes of a token
        self._remembered = _Remembered(self._longest_matches)
        self._cut = cut if cuts_are_safe(self._ids) else _whole

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of `text`, longest match first; a `str` is taken as UTF-8, bytes may be anything.

        Raises TokenizerError where a `str` holds a lone surrogate, or no token matches.
        """
        pieces = self._cut(text_bytes(text))
        return list(chain.from_iterable(map(self._remembered.__getitem__, pieces)))

    def _longest_matches(self, text: bytes) -> list[int]:
        matches: list[int] = []
        append, token_id, lengths = matches.append, self._ids.get, self._lengths.get
        at, end = 0, len(text)
        while at < end:
            for length in lengths(text[at : at + 3], (2, 1)):
                match = token_id(text[at : at + length])
                if match is not None:
                    append(match)
                    at += length  # past `end` if the slice was cut short, and then the text is done anyway
                    break
            else:
                raise TokenizerError(
                    f"no token of this vocabulary matches the text at byte 0x{text[at]:02x} ({text[at : at + 1]!r})"
                )
        return matches


class _Remembered(dict[bytes, list[int]]):
    """Ids of the short pieces met so far. Bounded: text without end must not fill the memory."""

    PIECES = 1 << 15
    LONGEST = 24

    def __init__(self, encode: Callable[[bytes], list[int]]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, piece: bytes) -> list[int]:
        ids = self._encode(piece)
        if len(piece) <= self.LONGEST:
            if len(self) >= self.PIECES:
                self.clear()
            self[piece] = ids
        return ids


def _lengths_by_prefix(ids: dict[bytes, int]) -> dict[bytes, tuple[int, ...]]:
    """For every first three bytes, the lengths of the tokens that start so, longest first, then 2 and 1."""
    lengths: dict[bytes, tuple[int, ...]] = {}
    for length, tokens in groupby(sorted(ids, key=len), key=len):
        if length > LONGEST_TOKEN:
            token = next(tokens)
            raise TokenizerError(f"token {ids[token]} is {length} bytes long: expected at most {LONGEST_TOKEN}")
        if length >= 3:
            for prefix in {token[:3] for token in tokens}:
                lengths[prefix] = (length, *lengths.get(prefix, (2, 1)))
    return lengths


def _duplicate(tokens: Sequence[bytes]) -> str:
    first: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if token and first.setdefault(token, i) != i:
            return f"tokens {first[token]} and {i} are both {token!r}: expected each token once"
    raise AssertionError("no token is there twice")


def _whole(text: bytes) -> list[bytes]:
    return [text]
