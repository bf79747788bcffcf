"""Stop strings against the definition, over every way to cut a text into pieces."""
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import InputError
from rwkv_edge.text.stop import StopFinder, stop_strings

short = st.lists(st.sampled_from([b"a", b"b", b"\n", "é".encode(), b"\xc3"]), min_size=1, max_size=4).map(b"".join)


def plain(text: bytes, stops: list[bytes]) -> tuple[bytes, bytes | None]:
    """Byte by byte: the text ends where for the first time one of the stop strings is its end."""
    for end in range(1, len(text) + 1):
        if at_end := [stop for stop in stops if text[:end].endswith(stop)]:
            longest = max(at_end, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(short, max_size=12), st.lists(short, max_size=3))
def test_the_text_before_the_first_stop_string_is_let_through(pieces: list[bytes], stops: list[bytes]) -> None:
    finder, out = StopFinder(stops), b""
    for n, piece in enumerate(pieces):
        out += finder.push(piece)
        expected, found = plain(b"".join(pieces[: n + 1]), stops)
        assert finder.found == found
        if found is not None:
            assert out == expected
            return
        # What is held back is as little as can be: a start of a stop string, the longest at the end of the text.
        starts = [stop[:k] for stop in stops for k in range(1, len(stop)) if expected.endswith(stop[:k])]
        assert finder.held == max(starts, key=len, default=b"")
        assert out + finder.held == expected
    assert out + finder.finish() == b"".join(pieces)


def test_of_overlapping_stop_strings_the_one_that_ends_first_counts() -> None:
    for pieces in ((b"xabcd",), (b"xab", b"cd"), (b"x", b"a", b"b", b"c", b"d")):
        finder = StopFinder([b"abcd", b"bc"])
        out = b""
        for piece in pieces:
            if finder.found is None:
                out += finder.push(piece)
        assert (out, finder.found) == (b"xa", b"bc")


WRONG = [("", "empty"), (["a", b""], "empty"), (3, "int"), ([1], "int"), ("\ud800", "Unicode")]


@pytest.mark.parametrize(("stop", "message"), WRONG)
def test_what_is_no_stop_string_is_refused(stop: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^stop .*{message}"):
        stop_strings(stop)


def test_one_or_several_stop_strings() -> None:
    assert stop_strings("\n\n") == (b"\n\n",)
    assert stop_strings(b"x") == (b"x",)
    assert stop_strings(["é", b"x"]) == ("é".encode(), b"x")
    assert stop_strings(()) == ()
