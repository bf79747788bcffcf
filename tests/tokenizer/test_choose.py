"""A model finds its tokenizer by the given file, its own tokens, or its size."""

import os
from pathlib import Path

import pytest

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import BpeTokenizer, ByteTokenizer, TrieTokenizer, tokenizer_for, world_tokenizer
from rwkv_edge.tokenizer.vocab_text import read_vocab_text

TOKENS = ["<s>", "a", "b"]


@pytest.mark.parametrize("rows", [65529, 65530, 65536])
def test_world_sizes_mean_the_world_vocabulary(rows: int) -> None:
    tokenizer = tokenizer_for(rows)
    assert tokenizer is world_tokenizer(rows)
    assert tokenizer.vocab_size == rows
    assert tokenizer.encode("User: hi") == world_tokenizer().encode("User: hi")


def test_256_means_bytes() -> None:
    assert isinstance(tokenizer_for(256), ByteTokenizer)


@pytest.mark.parametrize("rows", [50254, 50277, 50304, 50432])
def test_a_pile_model_says_which_file_it_needs(rows: int) -> None:
    with pytest.raises(TokenizerError, match=rf"{rows} tokens needs .* --tokenizer 20B_tokenizer\.json"):
        tokenizer_for(rows)


@pytest.mark.parametrize("rows", [0, 1, 255, 512, 32000, 50433, 65535, 65537, 1 << 20])
def test_other_sizes_need_a_vocabulary_file(rows: int) -> None:
    with pytest.raises(TokenizerError, match=rf"no vocabulary is known for .* {rows} tokens.*--tokenizer FILE"):
        tokenizer_for(rows)


def test_tokens_in_the_model_file_win_over_its_size() -> None:
    tokenizer = tokenizer_for(256, gguf_tokens=TOKENS)
    assert isinstance(tokenizer, TrieTokenizer)
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode("ab") == [1, 2]


@pytest.mark.parametrize("name", ["vocab.txt", "vocab", "rwkv_vocab_v20230424"])
def test_a_text_file_given_wins_over_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("5 'a' 1\n", encoding="utf-8")
    assert tokenizer_for(256, gguf_tokens=TOKENS, path=str(path)).encode("a") == [5]


@pytest.mark.parametrize("name", ["20B_tokenizer.json", "tokenizer.JSON", "20B_tokenizer"])
def test_a_json_file_given_is_a_bpe(bpe_file: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bpe_file.read_bytes())
    tokenizer = tokenizer_for(50277, path=path)
    assert isinstance(tokenizer, BpeTokenizer)
    assert tokenizer.vocab_size == 50277


def test_a_file_for_a_larger_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("256 'a' 1\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match="up to 256, but the model's vocabulary has 256 rows"):
        tokenizer_for(256, path=path)


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(TokenizerError, match=r"cannot be opened|is a directory"):
        tokenizer_for(256, path=path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["pipe.txt", "pipe.json"])
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    for read in (BpeTokenizer, read_vocab_text, lambda path: tokenizer_for(256, path=path)):
        with pytest.raises(TokenizerError, match=f"{name}: is a special file"):
            read(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_an_endless_device_is_refused() -> None:
    with pytest.raises(TokenizerError, match="/dev/zero: is a special file, expected a vocabulary file"):
        tokenizer_for(256, path="/dev/zero")
