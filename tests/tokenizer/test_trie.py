"""Longest match over any vocabulary, not only World."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import TrieTokenizer, world_tokenizer
from rwkv_edge.tokenizer.chunks import cut, cuts_are_safe

from .naive import longest_match_ids

GOLDENS = json.loads(Path(__file__).with_name("world_goldens.json").read_text(encoding="utf-8"))
ALPHABET = b" \n\tab1\xc3"
SINGLES = [bytes([b]) for b in ALPHABET]

small_texts = st.lists(st.sampled_from(SINGLES), max_size=60).map(b"".join)
small_tokens = st.lists(st.sampled_from(SINGLES), min_size=2, max_size=7).map(b"".join)


@settings(max_examples=300)
@given(st.sets(small_tokens, max_size=12), small_texts)
def test_any_vocabulary_matches_longest_first(longer: set[bytes], text: bytes) -> None:
    tokens = [b"", *SINGLES, *sorted(longer)]
    assert TrieTokenizer(tokens).encode(text) == longest_match_ids(tokens, text)


@settings(max_examples=300)
@given(st.sets(small_tokens, min_size=1, max_size=12))
def test_a_vocabulary_is_safe_to_cut_where_none_of_its_tokens_is_cut(tokens: set[bytes]) -> None:
    assert cuts_are_safe(tokens) == all(len(cut(token)) == 1 for token in tokens)


@given(st.binary())
def test_cutting_loses_nothing(text: bytes) -> None:
    assert b"".join(cut(text)) == text


@pytest.mark.parametrize("case", GOLDENS["first_511"], ids=lambda case: case["hex"][:16] or "empty")
def test_a_part_of_the_world_vocabulary_gives_the_official_ids(case: dict) -> None:
    tokens = [world_tokenizer().decode_bytes([i]) for i in range(512)]
    assert TrieTokenizer(tokens).encode(bytes.fromhex(case["hex"])) == case["ids"]


def test_an_empty_entry_never_matches() -> None:
    tokenizer = TrieTokenizer([b"", b"a", b"", b"ab", b""])
    assert tokenizer.encode("aab") == [1, 3]
    assert tokenizer.decode_bytes([2, 1, 4]) == b"a"


def test_a_byte_without_a_token_is_named() -> None:
    with pytest.raises(TokenizerError, match=r"no token of this vocabulary matches the text at byte 0x7a \(b'z'\)"):
        TrieTokenizer([b"", b"a", b"zoo"]).encode("aaza")


def test_two_ids_for_the_same_bytes_are_refused() -> None:
    with pytest.raises(TokenizerError, match="tokens 1 and 3 are both b'a'"):
        TrieTokenizer([b"", b"a", b"b", b"a"])


def test_an_oversized_token_is_refused() -> None:
    with pytest.raises(TokenizerError, match="token 1 is 1025 bytes long"):
        TrieTokenizer([b"", b"x" * 1025])


def test_bytes_like_objects_are_text_too() -> None:
    assert TrieTokenizer([b"", b"a"]).encode(bytearray(b"aa")) == [1, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [b"a\xc3\xa9", b"\n \n", b"a", b"a ", b"   x"])
def test_time_grows_with_the_length_of_the_text_not_its_square(unit: bytes) -> None:
    def seconds(repeats: int) -> float:
        text = unit * repeats
        start = time.process_time()
        world_tokenizer().encode(text)
        return time.process_time() - start

    seconds(1000)
    short = min(seconds(4_000) for _ in range(5))
    assert min(seconds(40_000) for _ in range(2)) < 10 * short * 4 + 0.01


def test_memory_for_remembered_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TrieTokenizer([b"", *(bytes([b]) for b in range(256))])
    remembered = tokenizer._remembered
    monkeypatch.setattr(type(remembered), "PIECES", 50)
    text = " ".join(map(str, range(500))) + " " + "9" * 1000
    assert tokenizer.encode(text) == [b + 1 for b in text.encode()]
    assert len(remembered) <= 50
    assert max(map(len, remembered)) <= remembered.LONGEST
