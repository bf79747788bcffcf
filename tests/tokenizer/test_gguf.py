"""Vocabularies as llama.cpp's converter stores them in a GGUF."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import ByteTokenizer, TrieTokenizer, gguf_tokenizer, world_tokenizer


def escaped(token: bytes) -> str:
    return repr(token)[2:-1]


SINGLES = [escaped(bytes([b])) for b in range(256)]


@given(st.sets(st.binary(min_size=2, max_size=8)))
def test_tokens_come_back_from_their_escapes(tokens: set[bytes]) -> None:
    longer = sorted(tokens)
    tokenizer = gguf_tokenizer(["<s>", *SINGLES, *map(escaped, longer)])
    for i, token in enumerate(longer, 257):
        assert tokenizer.decode_bytes([i]) == token


def test_a_converted_world_vocabulary_gives_the_world_ids() -> None:
    world = world_tokenizer()
    names = [escaped(world.decode_bytes([i])) for i in range(1, 65530)]
    tokenizer = gguf_tokenizer(["<s>", *names, *(f"[PAD{i}]" for i in range(65530, 65536))], 65536)
    text = 'Don\'t "quote" \\ [PAD65530] <s>\n\n\té 中文\0'
    assert tokenizer.encode(text) == world.encode(text)
    assert tokenizer.decode_bytes(range(65536)) == world.decode_bytes(range(65536))


def test_escapes_are_read_as_llama_cpp_reads_them() -> None:
    tokens = ["<s>", "\\t\\n\\r", "\\x00\\xff", "\\'", '"', "\\\\x41", "\\q", "é"]
    decoded = [b"", b"\t\n\r", b"\x00\xff", b"'", b'"', b"\\x41", b"q", "é".encode()]
    assert [gguf_tokenizer(tokens).decode_bytes([i]) for i in range(len(tokens))] == decoded


def test_the_start_token_and_fillers_never_come_from_text() -> None:
    tokenizer = gguf_tokenizer(["<s>", *SINGLES, "[PAD257]", "[PAD9]", ""])
    assert tokenizer.encode("<s>[PAD257]") == [b + 1 for b in b"<s>[PAD257]"]
    assert tokenizer.encode("[PAD9]") == [258]  # a filler carries its own id: this is a token
    assert tokenizer.decode_bytes([0, 257, 259]) == b""


@pytest.mark.parametrize("first", ["<s>", "\\x00"])
def test_one_token_for_each_byte_is_the_byte_vocabulary(first: str) -> None:
    tokenizer = gguf_tokenizer([first, *SINGLES[1:]], 256)
    assert isinstance(tokenizer, ByteTokenizer)
    assert tokenizer.encode(b"\0a\xff") == [0, 97, 255]


def test_256_tokens_in_another_order_are_not_the_byte_vocabulary() -> None:
    tokenizer = gguf_tokenizer(["<s>", *SINGLES[:255]], 256)
    assert isinstance(tokenizer, TrieTokenizer)
    assert tokenizer.encode(b"\0a") == [1, 98]


def test_missing_tokens_are_unused_rows() -> None:
    tokenizer = gguf_tokenizer(["<s>", "a"], 5)
    assert tokenizer.vocab_size == 5
    assert tokenizer.decode_bytes([4, 1]) == b"a"


@pytest.mark.parametrize("bad", ["\\", "ab\\", "\\x", "\\x4", "\\xg0", "\\xFF", "\\x4\\x41", "\ud800", 5, None, b"a"])
def test_a_token_that_cannot_be_read_is_named(bad: object) -> None:
    with pytest.raises(TokenizerError, match="GGUF token 2"):
        gguf_tokenizer(["<s>", "a", bad])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("tokens", "rows", "message"),
    [
        ([], None, "tokenizer.ggml.tokens holds no tokens"),
        (["<s>", "a", "b"], 2, "ids up to 2, but the model's vocabulary has 2 rows"),
        (["<s>", "a", "\\x61"], None, "tokens 1 and 2 are both b'a'"),
    ],
)
def test_tokens_that_make_no_vocabulary_are_refused(tokens: list[str], rows: int | None, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        gguf_tokenizer(tokens, rows)


@given(st.lists(st.text(alphabet="\\x0anrt'<s>é\ud800", max_size=6)))
def test_any_tokens_are_read_or_refused_never_worse(tokens: list[str]) -> None:
    try:
        assert gguf_tokenizer(tokens).vocab_size == len(tokens)
    except TokenizerError as error:
        assert "token" in str(error)  # noqa: PT017
