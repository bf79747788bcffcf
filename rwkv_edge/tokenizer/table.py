"""The table from ids to bytes: the decoding half, which all vocabularies share."""

from collections.abc import Iterable, Mapping
from typing import SupportsIndex

from rwkv_edge.errors import TokenizerError

MAX_VOCABULARY = 1 << 20
"""Ids a vocabulary may have. Far above any RWKV model; it stops a damaged file from asking for gigabytes."""


class TokenTable:
    """Decodes ids by looking them up. An unused id holds `b""`."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        """`tokens`: the bytes of each id, in order."""
        self._tokens = list(tokens)
        self.vocab_size = len(self._tokens)

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The exact bytes of `tokens`, joined. Raises TokenizerError for an id outside the vocabulary."""
        ids = list(tokens)
        try:
            if not ids or min(ids) >= 0:
                return b"".join(map(self._tokens.__getitem__, ids))
        except (IndexError, TypeError):
            pass
        raise TokenizerError(self._complaint(ids))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD. Raises as `decode_bytes` does."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def _complaint(self, ids: list[int]) -> str:
        for position, token in enumerate(ids):
            if not isinstance(token, SupportsIndex) or not 0 <= token < self.vocab_size:
                return f"token {position} is {token!s}: expected an id from 0 to {self.vocab_size - 1}"
        raise AssertionError("a token failed to decode, yet all ids are in range")


def id_table(tokens: Mapping[int, bytes], vocab_size: int | None, source: str) -> list[bytes]:
    """The bytes of each id from 0 to `vocab_size - 1`; ids that `tokens` leaves out hold `b""`.

    Args:
        tokens: the bytes of each id, in any order, no id negative.
        vocab_size: the model's embedding rows; None: as many as `tokens` needs.
        source: what the vocabulary was read from, for messages.

    Raises TokenizerError where the vocabulary is empty or needs more rows than the model has.
    """
    if not tokens:
        raise TokenizerError(f"{source} holds no tokens: expected a vocabulary")
    last = max(tokens)
    if last >= MAX_VOCABULARY:
        raise TokenizerError(f"{source} gives a token the id {last}: expected ids below {MAX_VOCABULARY}")
    rows = last + 1 if vocab_size is None else vocab_size
    if last >= rows:
        raise TokenizerError(
            f"{source} has token ids up to {last}, but the model's vocabulary has {rows} rows: "
            "expected the vocabulary this model was trained with"
        )
    table = [b""] * rows
    for token, text in tokens.items():
        table[token] = text
    return table
