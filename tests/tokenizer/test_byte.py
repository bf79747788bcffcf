"""The byte vocabulary: ids are byte values, id 0 ends a document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import ByteTokenizer


@given(st.binary())
def test_ids_are_the_bytes(text: bytes) -> None:
    assert ByteTokenizer().encode(text) == list(text)


@given(st.binary())
def test_all_bytes_but_nul_come_back(text: bytes) -> None:
    assert ByteTokenizer().decode_bytes(text) == text.replace(b"\0", b"")


def test_text_is_utf8() -> None:
    assert ByteTokenizer().encode("é") == [0xC3, 0xA9]
    assert ByteTokenizer().decode([0xC3, 0xA9, 0xC3]) == "é\ufffd"


def test_it_has_256_ids() -> None:
    assert ByteTokenizer().vocab_size == 256
    with pytest.raises(TokenizerError, match="token 0 is 256: expected an id from 0 to 255"):
        ByteTokenizer().decode([256])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TokenizerError, match="character 0 is the lone surrogate U\\+DC00"):
        ByteTokenizer().encode("\udc00")
