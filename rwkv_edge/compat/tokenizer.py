"""`rwkv.rwkv_tokenizer.TRIE_TOKENIZER` over our tokenizers."""
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import TrieTokenizer, vocab_text_tokenizer, world_tokenizer

WORLD_NAME = "rwkv_vocab_v20230424"
BROKEN = "\ufffd"


class TRIE_TOKENIZER:
    """file_name: a vocabulary text file; without the file, one that is named like the World vocabulary means our copy of it."""

    def __init__(self, file_name: str) -> None:
        if Path(file_name).stem == WORLD_NAME and not Path(file_name).exists():
            self._tokenizer: TrieTokenizer = world_tokenizer()
        else:
            self._tokenizer = vocab_text_tokenizer(file_name)

    @cached_property
    def idx2token(self) -> dict[int, bytes]:
        table = ((i, self._tokenizer.decode_bytes([i])) for i in range(self._tokenizer.vocab_size))
        return {i: token for i, token in table if token}

    @cached_property
    def token2idx(self) -> dict[bytes, int]:
        return {token: i for i, token in self.idx2token.items()}

    def encodeBytes(self, src: bytes) -> list[int]:
        return self._tokenizer.encode(src)

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:
        return self._tokenizer.decode_bytes(tokens)

    def encode(self, src: str) -> list[int]:
        return self._tokenizer.encode(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text; U+FFFD alone, as there, where the bytes are not all UTF-8 or an id, like 0, stands for no text."""
        ids = list(tokens)
        try:
            text = self._tokenizer.decode_bytes(ids).decode("utf-8")
        except (TokenizerError, UnicodeDecodeError):
            return BROKEN
        return BROKEN if 0 in ids else text

    def printTokens(self, tokens: Iterable[int]) -> None:
        for i in tokens:
            token = self.decodeBytes([i])
            try:
                shown: str | bytes = token.decode("utf-8")
            except UnicodeDecodeError:
                shown = token
            print(f"{shown!r}{i}", end=" ")
        print()
