"""Byte-level BPE files through the optional `tokenizers` package."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import MissingExtraError, TokenizerError
from rwkv_edge.tokenizer import BpeTokenizer, StreamDecoder


@pytest.fixture(scope="session")
def bpe(bpe_file: Path) -> BpeTokenizer:
    return BpeTokenizer(bpe_file)


def test_ids_are_those_of_the_package(bpe: BpeTokenizer, bpe_file: Path) -> None:
    import tokenizers

    text = "the cat   and 中文\n    the end é"
    assert bpe.encode(text) == tokenizers.Tokenizer.from_file(str(bpe_file)).encode(text).ids
    assert bpe.encode(text.encode()) == bpe.encode(text)


@given(st.text(alphabet=st.sampled_from("the cat  \n中文é😀\0")))
def test_text_comes_back_byte_for_byte(bpe: BpeTokenizer, text: str) -> None:
    assert bpe.decode_bytes(bpe.encode(text)) == text.encode()


def test_every_byte_has_a_token_of_its_own(bpe: BpeTokenizer) -> None:
    singles = {bpe.decode_bytes([i]) for i in range(bpe.vocab_size)}
    assert singles >= {bytes([b]) for b in range(256)}


def test_characters_stream_whole_though_their_bytes_are_apart(bpe: BpeTokenizer) -> None:
    ids = bpe.encode("a😀é")
    decoder = StreamDecoder(bpe)
    parts = [decoder.push(i) for i in ids]
    assert "" in parts
    assert "".join(parts) + decoder.finish() == "a😀é"


def test_special_tokens_decode_to_nothing_and_added_ones_to_their_text(bpe: BpeTokenizer) -> None:
    assert bpe.decode_bytes([0, 1]) == b""
    assert bpe.decode_bytes(bpe.encode("a    b")) == b"a    b"


def test_rows_the_file_does_not_use_decode_to_nothing(bpe_file: Path) -> None:
    padded = BpeTokenizer(bpe_file, 512)
    assert padded.vocab_size == 512
    assert padded.decode_bytes([511]) == b""


def test_a_file_with_more_ids_than_the_model_has_rows_is_refused(bpe_file: Path, bpe: BpeTokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"ids up to {bpe.vocab_size - 1}, but .* has 100 rows"):
        BpeTokenizer(bpe_file, 100)


def test_truncation_written_in_the_file_does_not_shorten_a_prompt(bpe_file: Path, tmp_path: Path) -> None:
    content = json.loads(bpe_file.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "short.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert len(BpeTokenizer(path).encode("the cat and the hat")) > 2


def test_text_that_is_not_unicode_is_refused(bpe: BpeTokenizer) -> None:
    with pytest.raises(TokenizerError, match="not UTF-8 at byte 1"):
        bpe.encode(b"a\xff")
    with pytest.raises(TokenizerError, match="character 1 is the lone surrogate"):
        bpe.encode("a\ud800")


def test_an_id_outside_the_vocabulary_is_named(bpe: BpeTokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"token 0 is {bpe.vocab_size}"):
        bpe.decode([bpe.vocab_size])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"{}",
        b"\xff\xfe",
        b'{"model": 5}',
        b'{"model": {"type": "WordPiece"}}',
        b'{"model": {"type": "BPE"}}',
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_bpe_is_named(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"bad\.json is not a "):
        BpeTokenizer(path)


def test_a_bpe_that_is_not_byte_level_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "words.json"
    model = {"type": "BPE", "vocab": {"a": 0, "中": 1}, "merges": []}
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"words\.json: token '中' holds '中'"):
        BpeTokenizer(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere\.json: cannot be opened: no such file"):
        BpeTokenizer(tmp_path / "nowhere.json")


def test_without_the_package_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = tmp_path / "20B_tokenizer.json"
    path.write_text('{"model": {"type": "BPE"}}', encoding="utf-8")
    with pytest.raises(MissingExtraError, match=r"pip install 'rwkv-edge\[bpe\]'"):
        BpeTokenizer(path)
