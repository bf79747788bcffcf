"""What the engine asks of a tokenizer."""

from collections.abc import Iterable
from typing import Protocol

END_OF_DOCUMENT = 0  # in every RWKV vocabulary: separates documents in training


class Tokenizer(Protocol):
    """Text to token ids and back. Ids run from 0 to `vocab_size - 1`; id 0 ends a document and decodes to nothing."""

    vocab_size: int
    """Number of ids: the model's embedding rows. Some of them may be unused."""

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of `text`; a `str` is taken as UTF-8.

        Raises TokenizerError where the text holds a lone surrogate, or a byte outside the vocabulary.
        """
        ...

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The exact bytes of `tokens`, joined; they may end inside a character.

        Raises TokenizerError where an id is outside 0 to `vocab_size - 1`.
        """
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD. Raises as `decode_bytes` does."""
        ...
