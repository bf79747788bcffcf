"""Text in blocks gives the tokens of the whole."""
import random
from pathlib import Path

import pytest

from rwkv_edge.tokenizer import BpeTokenizer, ByteTokenizer, Tokenizer, TrieTokenizer, world_tokenizer
from rwkv_edge.tokenizer.blocks import encode_blocks

TEXT = (Path(__file__).read_text() + "Ein Überfluß an Wörtern; 中文和日本語のテキスト。🎉" * 9 + " \n\n" * 200).encode()


def assert_same(tokenizer: Tokenizer, text: bytes, rng: random.Random, longest: int) -> None:
    blocks, at = [], 0
    while at < len(text):
        size = rng.randrange(0, longest)
        blocks.append(text[at : at + size])
        at += size
    pieces = list(encode_blocks(tokenizer, blocks))
    assert [token for piece in pieces for token in piece] == tokenizer.encode(text)
    assert isinstance(tokenizer, BpeTokenizer) or len(pieces) >= len(blocks)


@pytest.mark.parametrize("longest", [2, 17, 300])
def test_world_tokens(longest: int) -> None:
    rng = random.Random(longest)
    for _ in range(2):
        assert_same(world_tokenizer(), TEXT, rng, longest)
        assert_same(world_tokenizer(), bytes(rng.randrange(256) for _ in range(2000)), rng, longest)


def test_tokens_that_reach_across_every_block() -> None:
    tokenizer = TrieTokenizer([b"", b"a", b"b", b"aa", b"aaaa", b"aaab", b"abab", b"ababab"])
    rng = random.Random(0)
    for _ in range(200):
        assert_same(tokenizer, bytes(rng.choice(b"aaab") for _ in range(rng.randrange(1, 40))), rng, 5)


def test_bytes_and_bpe(bpe_file: Path) -> None:
    assert_same(ByteTokenizer(), TEXT, random.Random(1), 100)
    assert_same(BpeTokenizer(bpe_file), TEXT, random.Random(1), 100)


def test_no_text_has_no_tokens() -> None:
    assert [token for piece in encode_blocks(world_tokenizer(), []) for token in piece] == []
