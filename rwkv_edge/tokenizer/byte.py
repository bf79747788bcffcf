"""The byte vocabulary: 256 ids, each the byte of that value, as small models and tests use it."""

from rwkv_edge.tokenizer.table import TokenTable
from rwkv_edge.tokenizer.text import text_bytes


class ByteTokenizer(TokenTable):
    """Token id = byte value, with one exception: id 0 ends a document, so it decodes to nothing.

    A NUL byte still encodes to 0. It is the only byte that does not come back from `decode_bytes`.
    """

    vocab_size = 256
    longest = 1  # bytes of a token

    def __init__(self) -> None:
        super().__init__([b"", *(bytes([value]) for value in range(1, 256))])

    def encode(self, text: str | bytes) -> list[int]:
        """The bytes of `text`, a `str` in UTF-8. Raises TokenizerError where a `str` holds a lone surrogate."""
        return list(text_bytes(text))
