"""Conversations whose answers are given, so that tests know every token."""
from collections.abc import Iterator
from typing import Any

import pytest

from rwkv_edge import Model, State
from rwkv_edge.text.generation import TextStream
from tests.text.test_generation import Scripted


class Script:
    """What a model is made to answer, reply after reply; `prompts` is what it was given to read for each."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model, self.prompts = model, list[str]()
        self._answers: Iterator[str | list[str]] = iter(())
        self._stream = model.stream
        monkeypatch.setattr(model, "stream", self._scripted)

    def will_answer(self, *answers: str | list[str]) -> None:
        """Texts, or lists of the texts of their tokens. Each ends with the end of the document."""
        self._answers = iter(answers)

    def _scripted(self, prompt: bytes, state: State, *, sampling: Any = None, **others: Any) -> TextStream:
        self.prompts.append(prompt.decode(errors="replace"))
        answer = next(self._answers, "")
        words = [answer] if isinstance(answer, str) else answer
        tokens = [token for word in words for token in self.model.tokenize(word)]
        return self._stream(prompt, state, sampling=Scripted(tokens), **others)
