"""`rwkv.utils.PIPELINE`: encode, decode, sample and generate, drawing from NumPy's global generator as there."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rwkv_edge.compat.model import RWKV
from rwkv_edge.compat.tokenizer import BROKEN, TRIE_TOKENIZER, WORLD_NAME
from rwkv_edge.errors import MissingExtraError
from rwkv_edge.text.sampling import UNCOUNTED_TEXT, probabilities
from rwkv_edge.tokenizer import BpeTokenizer


@dataclass
class PIPELINE_ARGS:
    """See `rwkv_edge.Sampling`; alpha_* are its penalties, token_stop ends the text, token_ban is never drawn."""

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    alpha_frequency: float = 0.2
    alpha_presence: float = 0.2
    alpha_decay: float = 0.996
    token_ban: Sequence[int] = field(default_factory=list)
    token_stop: Sequence[int] = field(default_factory=list)
    chunk_len: int = 256


class PIPELINE:
    """WORD_NAME: "rwkv_vocab_v20230424", "cl100k_base" (needs tiktoken), or the path of a tokenizer.json."""

    def __init__(self, model: RWKV, WORD_NAME: str) -> None:
        self.model = model
        self.tokenizer = tokenizer_named(WORD_NAME)

    def refine_context(self, context: str) -> str:
        """Every line stripped, empty ones dropped, and a line end before the first."""
        lines = (line.strip().strip("\u3000").strip("\r") for line in context.strip().split("\n"))
        return "\n" + "\n".join(line for line in lines if line).strip()

    def encode(self, x: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(x)
        return ids

    def decode(self, x: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(x)
        return text

    def sample_logits(self, logits: Any, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0) -> int:
        """One draw from `numpy.random`, so that after `numpy.random.seed` the tokens are those of the official package."""
        p = probabilities(np.asarray(logits), temperature, top_p, int(top_k))
        kept = np.flatnonzero(p)
        return int(np.random.choice(kept, p=p[kept]))  # noqa: NPY002 - the stream that scripts seed

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], Any] | None = None,
        state: Any = None,
    ) -> str:
        """The continuation of `ctx`. callback: gets each piece of text as soon as its characters are whole."""
        args = args or PIPELINE_ARGS()
        occurrence: dict[int, float] = {}
        text, waiting = "", []
        tokens = self.encode(ctx)
        for _ in range(token_count):
            logits, state = self._fed(tokens, state, args.chunk_len)
            token = self.sample_logits(
                adjusted(logits, occurrence, args), temperature=args.temperature, top_p=args.top_p, top_k=args.top_k
            )
            if token in args.token_stop:
                break
            for seen in occurrence:
                occurrence[seen] *= args.alpha_decay
            counted = self.decode([token]) not in UNCOUNTED_TEXT
            occurrence[token] = occurrence.get(token, 0) + counted
            waiting.append(token)
            piece = self.decode(waiting)
            if BROKEN not in piece:
                if callback:
                    callback(piece)
                text, waiting = text + piece, []
            tokens = [token]
        return text

    def _fed(self, tokens: list[int], state: Any, chunk_len: int) -> tuple[Any, Any]:
        """The logits after all tokens, in chunks; and the state."""
        logits = None
        for begin in range(0, max(len(tokens), 1), chunk_len):  # none at all: the model says what is wrong
            logits, state = self.model.forward(tokens[begin : begin + chunk_len], state)
        return logits, state


def adjusted(logits: Any, occurrence: dict[int, float], args: PIPELINE_ARGS) -> Any:
    """Bans and penalties, in place."""
    for banned in args.token_ban:
        logits[banned] = -np.inf
    for token, count in occurrence.items():
        logits[token] -= args.alpha_presence + count * args.alpha_frequency
    return logits


def tokenizer_named(name: str) -> Any:
    """What `PIPELINE` means by a name."""
    if name == WORLD_NAME:
        return TRIE_TOKENIZER(name)
    if name == "cl100k_base":
        try:
            import tiktoken
        except ImportError:
            raise MissingExtraError("the cl100k_base vocabulary needs the tiktoken package: pip install tiktoken") from None
        return tiktoken.get_encoding(name)
    return BpeTokenizer(name)
