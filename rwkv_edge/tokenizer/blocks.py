"""Long texts, some bytes at a time, as the tokens that the whole text has."""
from collections.abc import Iterable, Iterator

from rwkv_edge.tokenizer.byte import ByteTokenizer
from rwkv_edge.tokenizer.interface import Tokenizer
from rwkv_edge.tokenizer.trie import TrieTokenizer


def encode_blocks(tokenizer: Tokenizer, blocks: Iterable[bytes]) -> Iterator[list[int]]:
    """Lists of ids which, one behind the other, are those of the joined blocks.

    Longest match looks no further ahead than the longest token: what starts so far from the end of what is known is certain.
    So a text of any length takes the memory of a few blocks. With other vocabularies (Pile's, whose rules look at whole
    words and normalise characters) the text is put together first. Raises as `encode` does.
    """
    if not isinstance(tokenizer, TrieTokenizer | ByteTokenizer):
        yield tokenizer.encode(b"".join(blocks))
        return
    rest = b""
    for block in blocks:
        rest += block
        ids = tokenizer.encode(rest)
        known = len(rest)
        while ids and known > len(rest) - tokenizer.longest:
            known -= len(tokenizer.decode_bytes(ids[-1:]))
            ids.pop()
        yield ids
        rest = rest[known:]
    yield tokenizer.encode(rest)
