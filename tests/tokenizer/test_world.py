"""The World tokenizer gives the official ids, for any bytes."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer import world_tokenizer
from rwkv_edge.tokenizer.build_world import pack
from rwkv_edge.tokenizer.chunks import cuts_are_safe
from rwkv_edge.tokenizer.world import HEADER, MAGIC, WORLD_FILE, unpack

from .naive import longest_match

GOLDENS = json.loads(Path(__file__).with_name("world_goldens.json").read_text(encoding="utf-8"))
TOKENS = [b"", *unpack(WORLD_FILE.read_bytes(), "world.bin")]
naive = longest_match(TOKENS)

texts = st.text(alphabet=st.one_of(st.sampled_from(" \n\taAzé1.,(=。，…»中文я"), st.characters(codec="utf-8")))
seams = st.sampled_from([b" ", b"\n", b"\t", b"a", b"\xc3"])
token_soup = st.lists(st.one_of(st.sampled_from(TOKENS), seams)).map(b"".join)


def test_every_id_has_the_official_bytes() -> None:
    digest = hashlib.sha256()
    for token_id in range(1, 65530):
        token = world_tokenizer().decode_bytes([token_id])
        digest.update(b"%d %d " % (token_id, len(token)) + token)
    assert digest.hexdigest() == GOLDENS["vocabulary_sha256"]


@pytest.mark.parametrize("case", GOLDENS["world"], ids=lambda case: case["hex"][:16] or "empty")
def test_ids_equal_the_official_tokenizers(case: dict) -> None:
    text = bytes.fromhex(case["hex"])
    assert world_tokenizer().encode(text) == case["ids"]
    assert world_tokenizer().decode_bytes(case["ids"]) == text


def test_every_single_byte_has_a_token() -> None:
    for byte in range(256):
        assert world_tokenizer().encode(bytes([byte])) == [byte + 1]


@given(st.binary())
def test_random_bytes_match_longest_first(text: bytes) -> None:
    assert world_tokenizer().encode(text) == naive(text)


@given(texts)
def test_random_unicode_matches_longest_first(text: str) -> None:
    assert world_tokenizer().encode(text) == naive(text.encode())


@settings(max_examples=200)
@given(token_soup)
def test_tokens_run_together_match_longest_first(text: bytes) -> None:
    assert world_tokenizer().encode(text) == naive(text)


@pytest.mark.parametrize("length", [1, 2, 3, 79, 80, 81, 127, 128, 129, 1000])
@pytest.mark.parametrize("unit", [b" ", b"=", b"\n", b"-", b"\t", b"\xe4", b" =", b"   x", b"\n "])
def test_long_runs_match_longest_first(unit: bytes, length: int) -> None:
    assert world_tokenizer().encode(unit * length) == naive(unit * length)


@given(st.one_of(st.binary(), token_soup))
def test_bytes_survive_the_round_trip(text: bytes) -> None:
    assert world_tokenizer().decode_bytes(world_tokenizer().encode(text)) == text


def test_text_and_its_utf8_have_the_same_ids() -> None:
    text = "Grüße, 世界 👋"
    assert world_tokenizer().encode(text) == world_tokenizer().encode(text.encode())


def test_the_same_text_gives_the_same_ids_when_it_is_remembered() -> None:
    text = "remembered words, remembered words"
    first = world_tokenizer().encode(text)
    first.append(-1)  # the caller owns the list
    assert world_tokenizer().encode(text) == first[:-1]


def test_the_vocabulary_may_be_cut_between_words() -> None:
    assert cuts_are_safe(TOKENS)


def test_end_of_document_and_unused_ids_decode_to_nothing() -> None:
    assert world_tokenizer().vocab_size == 65536
    assert world_tokenizer().decode_bytes([0, *range(65530, 65536)]) == b""


@pytest.mark.parametrize("bad", [-1, 65536, 10**12])
def test_an_id_outside_the_vocabulary_is_named(bad: int) -> None:
    with pytest.raises(TokenizerError, match=f"token 1 is {bad}: expected an id from 0 to 65535"):
        world_tokenizer().decode([11, bad])


@pytest.mark.parametrize("bad", [1.0, "a", None])
def test_an_id_that_is_no_integer_is_named(bad: object) -> None:
    with pytest.raises(TokenizerError, match="token 0 is "):
        world_tokenizer().decode([bad])  # type: ignore[list-item]


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    assert world_tokenizer().decode(world_tokenizer().encode(b"ok \xe4\xb8")) == "ok \ufffd"


def test_a_lone_surrogate_is_refused_with_its_position() -> None:
    with pytest.raises(TokenizerError, match="character 3 is the lone surrogate U\\+D83D"):
        world_tokenizer().encode("abc\ud83d!")


def test_text_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="str or bytes, not int"):
        world_tokenizer().encode(5)  # type: ignore[arg-type]


def test_a_model_with_fewer_rows_never_gets_an_id_it_does_not_have() -> None:
    small = world_tokenizer(65529)
    assert small.vocab_size == 65529
    assert max(small.encode(b" " * 128)) < 65529
    assert small.decode_bytes(small.encode(b" " * 128)) == b" " * 128


def test_packing_is_undone_by_unpacking() -> None:
    tokens = [b"a", b"\0", b"ab", b"abc", b"xyz", b"q" * 255]
    assert unpack(pack(tokens), "x") == tokens


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_packed_vocabulary_is_refused(data: st.DataObject) -> None:
    good = pack([b"a", b"b", b"ab", b"abc"])
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(good) - 1))
    bad[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(good)))
    for damaged in (bytes(bad), good[:cut] + b"\0", good[: min(cut, len(good) - 1)]):
        with pytest.raises(TokenizerError, match=r"world\.bin is "):
            unpack(damaged, "world.bin")


@pytest.mark.parametrize(
    "content", [b"", b"not zlib", zlib.compress(b"short"), zlib.compress(struct.pack("<256I", *range(256)))]
)
def test_a_packed_vocabulary_with_a_valid_checksum_over_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(TokenizerError, match="damaged"):
        unpack(HEADER.pack(MAGIC, 7, zlib.crc32(content)) + content, "world.bin")


@pytest.mark.parametrize("tokens", [[b"ab", b"a"], [b""], [b"x" * 256]])
def test_only_tokens_sorted_by_length_can_be_packed(tokens: list[bytes]) -> None:
    with pytest.raises(ValueError, match="sorted by length"):
        pack(tokens)
