"""What a conversation asks of a prompt format, and of a model."""
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rwkv_edge.arch import ModelShape
from rwkv_edge.chat.messages import Message
from rwkv_edge.state import State
from rwkv_edge.text.generation import TextStream
from rwkv_edge.text.sampling import Sampling
from rwkv_edge.weights import Weights


class Format(Protocol):
    """How messages become the text that a model was trained on."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer: the start of the next turn, which the model would write itself."""
        ...

    @property
    def sampling(self) -> Sampling:
        """The settings that the model cards advise."""
        ...

    @property
    def think_modes(self) -> tuple[str, ...]:
        """Names of the ways to think before answering; the first one is "off"."""
        ...

    def continued(self, text: str, messages: Sequence[Message], known: int, think: str) -> str:
        """The whole text of a conversation, up to where the model is to answer its last message, which is a user's.

        text: what the model has read and written of it; it holds the first `known` messages. The result need not begin
        with it (a template may write an earlier answer otherwise than the model did).
        Raises InputError for messages that this format cannot express.
        """
        ...


class ChatModel(Protocol):
    """What `rwkv_edge.Model` gives a conversation."""

    @property
    def weights(self) -> Weights: ...

    @property
    def shape(self) -> ModelShape: ...

    def new_state(self) -> State: ...

    def load_state(self, path: Path) -> State: ...

    def stream(
        self, prompt: bytes, state: State, *, max_tokens: int, sampling: Sampling, stop: Sequence[str | bytes]
    ) -> TextStream: ...
