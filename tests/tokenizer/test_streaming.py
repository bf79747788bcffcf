"""Streamed text is whole characters, and joined it is the decoded text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import ByteTokenizer, StreamDecoder, world_tokenizer


def stream(tokenizer: object, tokens: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)  # type: ignore[arg-type]
    return [*map(decoder.push, tokens), decoder.finish()]


broken = st.one_of(st.binary(max_size=2), st.sampled_from([b"\xe4\xb8", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0"]))
near_utf8 = st.lists(st.one_of(st.characters(codec="utf-8").map(str.encode), broken)).map(b"".join)


@given(st.lists(st.integers(0, 65535)))
def test_any_world_tokens_stream_to_their_text(tokens: list[int]) -> None:
    assert "".join(stream(world_tokenizer(), tokens)) == world_tokenizer().decode(tokens)


@given(near_utf8)
def test_any_bytes_stream_to_their_text(text: bytes) -> None:
    tokens = ByteTokenizer().encode(text)
    assert "".join(stream(ByteTokenizer(), tokens)) == ByteTokenizer().decode(tokens)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_valid_text_never_shows_a_replacement(text: str) -> None:
    parts = stream(ByteTokenizer(), ByteTokenizer().encode(text))
    assert "".join(parts) == text
    assert [part for part in parts if part] == list(text)


def test_a_character_comes_with_its_last_byte() -> None:
    assert stream(ByteTokenizer(), list("é😀".encode())) == ["", "é", "", "", "", "😀", ""]


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    assert stream(ByteTokenizer(), [0x61, 0xE4, 0xB8]) == ["a", "", "", "\ufffd"]


def test_end_of_document_shows_nothing() -> None:
    assert stream(world_tokenizer(), [0, 98, 0]) == ["", "a", "", ""]


def test_a_finished_decoder_starts_anew() -> None:
    decoder = StreamDecoder(ByteTokenizer())
    decoder.push(0xE4)
    decoder.finish()
    assert decoder.push(0x61) + decoder.finish() == "a"


def test_an_unknown_id_is_refused_and_leaves_the_stream_as_it_was() -> None:
    decoder = StreamDecoder(ByteTokenizer())
    decoder.push(0xC3)
    with pytest.raises(TokenizerError, match="token 0 is 300"):
        decoder.push(300)
    assert decoder.push(0xA9) == "é"
