"""Text to token ids and back, for every vocabulary RWKV models use."""

from rwkv_edge.tokenizer.bpe import BpeTokenizer
from rwkv_edge.tokenizer.byte import ByteTokenizer
from rwkv_edge.tokenizer.choose import tokenizer_for
from rwkv_edge.tokenizer.gguf import gguf_tokenizer
from rwkv_edge.tokenizer.interface import END_OF_DOCUMENT, Tokenizer
from rwkv_edge.tokenizer.streaming import StreamDecoder
from rwkv_edge.tokenizer.trie import TrieTokenizer
from rwkv_edge.tokenizer.vocab_text import vocab_text_tokenizer
from rwkv_edge.tokenizer.world import world_tokenizer

__all__ = [
    "END_OF_DOCUMENT",
    "BpeTokenizer",
    "ByteTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "TrieTokenizer",
    "gguf_tokenizer",
    "tokenizer_for",
    "vocab_text_tokenizer",
    "world_tokenizer",
]
