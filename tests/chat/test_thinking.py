"""Thoughts and answers are told apart, wherever the text is cut into pieces."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.chat.thinking import ThinkSplitter, opening_of

TEXTS = [
    ("", " Hello there", "", "Hello there"),
    (" <think", ">\nHm.</thin k>\n</think>\n\nYes.\n", "Hm.</thin k>\n", "Yes.\n"),
    (" <think>\n</think", ">\nYes.", "", "Yes."),
    (" <think></think", ">\nYes.", "", "Yes."),
    ("", " <think>Hm</think>Yes <think>", "Hm", "Yes <think>"),
    ("", " <thin", "", "<thin"),
    (" <think", ">Hm, </thi", "Hm, </thi", ""),
    ("<think>\n", "Hm</think>", "Hm", ""),
    ("<think>\n\n</think>\n\n", "Yes", "", "Yes"),
]


@pytest.mark.parametrize(("opening", "text", "thinking", "answer"), TEXTS)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_any_cut_gives_the_same(opening: str, text: str, thinking: str, answer: str, cuts: list[int]) -> None:
    splitter = ThinkSplitter()
    pieces = list(splitter.push(opening))
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
        pieces += splitter.push(text[begin:end])
    pieces += splitter.finish()
    assert "".join(piece.text for piece in pieces if piece.thinking) == thinking
    assert "".join(piece.text for piece in pieces if not piece.thinking) == answer


def test_the_opening_is_found_at_the_end_of_a_prompt() -> None:
    for opening in ("<think", "<think>", "<think>\n", "<think>\n</think", "<think></think", "<think>\n\n</think>\n\n"):
        assert opening_of("User: what is <think?\n\nAssistant: " + opening) == opening
    assert opening_of("User: <think> x\n\nAssistant:") == ""
