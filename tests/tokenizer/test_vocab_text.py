"""Vocabulary text files: the official format is read, anything else is refused with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import vocab_text_tokenizer, world_tokenizer
from rwkv_edge.tokenizer.vocab_text import read_vocab_text


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def line(token_id: int, token: bytes) -> str:
    """As the official file writes it: a `str` literal where the token is UTF-8, else a `bytes` literal."""
    try:
        literal = repr(token.decode())
    except UnicodeDecodeError:
        literal = repr(token)
    return f"{token_id} {literal} {len(token)}\n"


@given(st.sets(st.binary(min_size=1, max_size=12), min_size=1))
def test_what_the_official_format_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, tokens: set[bytes]
) -> None:
    expected = dict(enumerate(sorted(tokens), 1))
    path = write(tmp_path_factory.mktemp("vocab"), "".join(line(i, token) for i, token in expected.items()))
    assert read_vocab_text(path) == expected


def test_the_start_of_the_world_vocabulary_encodes_the_same_from_text(tmp_path: Path) -> None:
    world = world_tokenizer()
    path = write(tmp_path, "".join(line(i, world.decode_bytes([i])) for i in range(1, 2600)))
    tokenizer = vocab_text_tokenizer(path, 3000)
    assert tokenizer.vocab_size == 3000
    assert tokenizer.encode(" A\n\n\\ 'é\0\xff") == world.encode(" A\n\n\\ 'é\0\xff")
    assert tokenizer.decode_bytes([0, 2999]) == b""


def test_windows_line_ends_and_a_missing_last_one_do_not_matter(tmp_path: Path) -> None:
    assert read_vocab_text(write(tmp_path, "1 'a' 1\r\n2 b'\\xff' 1")) == {1: b"a", 2: b"\xff"}


def test_the_size_without_a_model_is_one_more_than_the_highest_id(tmp_path: Path) -> None:
    assert vocab_text_tokenizer(write(tmp_path, "7 'a' 1\n")).vocab_size == 8


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "2",
        "2 'b'",
        "'b' 1",
        "2 'b' one",
        "-2 'b' 1",
        "2.0 'b' 1",
        "2 b 1",
        "2 'b\" 1",
        "2 'b'' 1",
        "2 f'b' 1",
        "2 rb'b' 1",
        "2 'b' 'c' 2",
        "2 ('b') 1",
        "2 ['b'] 1",
        "2 98 1",
        "2 __import__('os').system('true') 1",
        "2 'b'.upper() 1",
        "2 'b'*9 9",
        "2 '\\x6' 1",
        "2 '\\N{BULLET}' 3",
        "2 '\\ud800' 3",
        "2 b'é' 2",
        "2 'b' 2",
        "2 'é' 1",
        "2 '' 0",
        "1 'b' 1",
        "9999999999 'b' 1",
        "２ 'b' 1",
        "2  'b' 1",
        "2 '" + "b" * 9000 + "' 9000",
        "(" * 5000,
        "2 '\0' 1 1",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path, f"1 'a' 1\n{bad}\n3 'c' 1\n")
    with pytest.raises(TokenizerError, match=r"vocab\.txt, line 2: ."):
        read_vocab_text(path)


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"vocab\.txt, line 2: not UTF-8"):
        read_vocab_text(write(tmp_path, b"1 'a' 1\n2 '\xff' 1\n"))


@given(st.integers(0, 1000), st.binary(max_size=3))
def test_a_mutilated_file_is_read_or_refused_never_worse(
    tmp_path_factory: pytest.TempPathFactory, at: int, insert: bytes
) -> None:
    text = "".join(line(i, world_tokenizer().decode_bytes([i])) for i in range(220, 280)).encode()
    path = write(tmp_path_factory.mktemp("vocab"), text[:at] + insert + text[at + 1 :])
    try:
        vocab_text_tokenizer(path)
    except TokenizerError as error:
        assert "vocab.txt" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no tokens"),
        ("1048576 'a' 1\n", "id 1048576: expected ids below"),
        ("1 'a' 1\n2 b'a' 1\n", "vocab.txt: tokens 1 and 2 are both b'a'"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        vocab_text_tokenizer(write(tmp_path, text))


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"vocab\.txt has token ids up to 9, but .* has 9 rows"):
        vocab_text_tokenizer(write(tmp_path, "9 'a' 1\n"), 9)


def test_a_model_file_given_as_a_vocabulary_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(TokenizerError, match="is larger than 67108864 bytes"):
        read_vocab_text(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere\.txt: cannot be opened: no such file"):
        read_vocab_text(tmp_path / "nowhere.txt")
