"""The vocabulary inside a GGUF file whose `tokenizer.ggml.model` is "rwkv".

Format facts from llama.cpp (its converter and `llama_unescape_rwkv_token`): token texts are what Python's `repr` of the
bytes shows between the quotes; a reader turns `\\t`, `\\n`, `\\r` and `\\xNN` back and drops any other backslash.
"""

import re
from collections.abc import Sequence

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer.byte import ByteTokenizer
from rwkv_edge.tokenizer.table import id_table
from rwkv_edge.tokenizer.text import text_bytes
from rwkv_edge.tokenizer.trie import TrieTokenizer

# The pattern takes whatever follows a backslash; what the table does not know is an error.
_ESCAPE = re.compile(rb"\\(?:x.{0,2}|[^x]|\Z)", re.DOTALL)
_UNESCAPED = (
    {b"\\%c" % b: b"%c" % b for b in range(256) if b != ord("x")}
    | {b"\\t": b"\t", b"\\n": b"\n", b"\\r": b"\r"}
    | {b"\\x%02x" % b: b"%c" % b for b in range(256)}
)


def gguf_tokenizer(tokens: Sequence[str], vocab_size: int | None = None) -> TrieTokenizer | ByteTokenizer:
    """The tokenizer of the GGUF metadata value `tokenizer.ggml.tokens`.

    Token 0 (`<s>`) ends a document and fillers (`[PAD7]` as token 7) are unused: text never gives either, and both
    decode to nothing. Where tokens 1 to 255 are the single bytes of that value and there are no others, the result is
    the byte vocabulary, in which byte 0 is token 0.

    Args:
        tokens: the escaped text of each id, in order.
        vocab_size: the model's embedding rows; None: as many as there are tokens.

    Raises TokenizerError naming the token where one cannot be read.
    """
    unescaped = {i: _unescape(i, text) for i, text in enumerate(tokens)}
    table = id_table(unescaped, vocab_size, "the GGUF field tokenizer.ggml.tokens")
    table[0] = b""
    if len(table) == ByteTokenizer.vocab_size and table[1:] == [bytes([b]) for b in range(1, 256)]:
        return ByteTokenizer()
    return TrieTokenizer(table)


def _unescape(index: int, text: str) -> bytes:
    if not isinstance(text, str):
        raise TokenizerError(f"GGUF token {index} is {text!r:.40}: expected a string")
    if text == f"[PAD{index}]":
        return b""
    try:
        raw = text_bytes(text)
    except TokenizerError as error:
        raise TokenizerError(f"GGUF token {index}: {error}") from None
    if b"\\" not in raw:
        return raw
    try:
        return _ESCAPE.sub(lambda escape: _UNESCAPED[escape[0]], raw)
    except KeyError:
        raise TokenizerError(
            f"GGUF token {index} is {text!r:.40}: expected two lower-case hex digits after \\x, a character after \\"
        ) from None
