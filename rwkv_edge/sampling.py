"""From logits to the next token: penalties for repetition, the cut to likely tokens, temperature, one random number.

The semantics are those of the official package (`rwkv.utils.PIPELINE`, version 0.8, its NumPy branch), which the
settings published for RWKV models assume. Unlike elsewhere, top_p cuts before temperature, and top_k after top_p.

Where we differ, on purpose:
- top_p = 1 keeps every token. There the official running sum, in float32, may end a little below 1, and then only the
  most likely token is left; or it reaches 1 early, and then the tail is lost.
- Greedy choices (temperature 0, top_p 0, top_k 1) take the lowest id among equal logits, and of tokens that tie for the
  last of the top_k places the lowest ids stay. The official package draws among equals in the first two cases and
  leaves the others to an unstable sort, whose outcome depends on the processor.
- Sums are float64, and temperature is applied to logits, not to rounded probabilities, so that none above 0 underflows
  (the official package divides 0 by 0 when it is low enough).
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import InputError, TokenizerError
from rwkv_edge.tokenizer.interface import Tokenizer

Logits = NDArray[np.float32]  # [n_vocab]
TokenIds = NDArray[np.intp]  # [m], ascending

NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "penalty_decay": (0, 1),
}
INTEGERS: dict[str, tuple[int, int]] = {"top_k": (0, 2**31 - 1), "seed": (0, 2**64 - 1)}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. The defaults are those of RWKV's own chat demo (API_DEMO_CHAT.py) and of rwkv.cn.

    temperature: 0 (always the most likely token) to 100; applied to what top_p and top_k leave.
    top_p: 0 to 1; the fewest most likely tokens that reach this probability stay, and all that equal the last of them.
    top_k: at most so many tokens stay; 0: no limit.
    presence_penalty: subtracted from the logit of every token that was drawn before; -100 to 100.
    frequency_penalty: subtracted once for each time it was drawn before, the older the less; -100 to 100.
    penalty_decay: a draw counts penalty_decay ** (draws since); 0 to 1. 0.996 halves a count in 173 tokens.
    seed: 0 to 2**64 - 1; None: different every time.

    Raises InputError naming the field.
    """

    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    presence_penalty: float = 0.5
    frequency_penalty: float = 0.5
    penalty_decay: float = 0.996
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in NUMBERS.items():
            object.__setattr__(self, name, float(_in_range(name, getattr(self, name), Real, low, high)))
        for name, (low, high) in INTEGERS.items():
            if name != "seed" or self.seed is not None:
                object.__setattr__(self, name, int(_in_range(name, getattr(self, name), Integral, low, high)))


def _in_range(name: str, value: Any, kind: type, low: float, high: float) -> Any:
    of_kind = isinstance(value, kind) and not isinstance(value, bool)
    if not of_kind or not low <= value <= high:
        what = "a number" if kind is Real else "an integer"
        raise InputError(f"{name} must be {what} from {low} to {high}, got {value!r:.40}")
    return value


def probabilities(logits: Logits, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> NDArray[np.float64]:
    """The distribution that tokens are drawn from: float64 [n_vocab], summing to 1, 0 for the tokens that were cut.

    Raises InputError for logits that are not one row of numbers or hold NaN, and for settings that `Sampling` refuses.
    """
    settings = Sampling(temperature, top_p, top_k)
    row = _one_row(logits)
    ids, weights = _candidates(row, settings)
    out = np.zeros(row.size)
    out[ids] = weights / weights.sum()
    return out


def _one_row(logits: Any) -> Logits:
    row = np.asarray(logits)
    if row.ndim != 1 or row.size == 0 or row.dtype.kind not in "fiu":
        raise InputError(f"logits must be one row of numbers, [n_vocab], got {row.dtype} of shape {list(row.shape)}")
    with np.errstate(over="ignore"):
        return row.astype(np.float32, copy=False)


def _candidates(logits: Logits, settings: Sampling) -> tuple[TokenIds, NDArray[np.float64]]:
    """The tokens that top_p and top_k leave, and their weights: their probabilities, divided by the largest."""
    top = float(logits.max())
    if top == -np.inf:
        raise InputError("all logits are -inf: no token is left to choose from")
    if not np.isfinite(top):
        raise InputError("the model's logits hold NaN or infinity: its weights or the state may be damaged")
    if settings.temperature == 0 or settings.top_p == 0 or settings.top_k == 1:
        return np.array([logits.argmax()]), np.ones(1)
    with np.errstate(over="ignore", under="ignore"):
        ids = _kept(logits, top, settings.top_p, settings.top_k)
        weights = (logits if ids.size == logits.size else logits[ids]).astype(np.float64)
        weights -= top  # in place: for a whole vocabulary, touching fresh memory takes longer than the arithmetic
        weights /= settings.temperature
        return ids, np.exp(weights, out=weights)


def _kept(logits: Logits, top: float, top_p: float, top_k: int) -> TokenIds:
    """What top_p and top_k leave. The order of the steps is ours, the outcome that of cutting by top_p first."""
    if top_p == 1:
        return _largest(logits, top_k) if 0 < top_k < logits.size else _all_ids(logits.size)
    weights = logits - np.float32(top)
    np.exp(weights, out=weights)
    total = float(weights.sum(dtype=np.float64))
    # Sorting a whole vocabulary would take longer than all the rest. Tokens below `floor` are together lighter than
    # what may be missing, (1 - top_p) * total, so those above it hold the nucleus. 0.99: room for rounding.
    floor = 0.99 * (1 - top_p) * total / logits.size
    ids = np.flatnonzero(weights >= floor)
    if 0 < top_k < ids.size:
        ids = ids[_largest(logits[ids], top_k)]
    return ids[_nucleus(weights[ids], top_p * total)]


def _nucleus(weights: NDArray[np.float32], enough: float) -> NDArray[np.bool_]:
    """Which are among the fewest heaviest that sum to `enough` (or to all there is), or as heavy as the last one."""
    heaviest = np.sort(weights)[::-1]
    reached = int(np.searchsorted(np.cumsum(heaviest, dtype=np.float64), enough))
    lightest = float(heaviest[min(reached, weights.size - 1)])
    return weights >= lightest


def _largest(values: NDArray[np.float32], k: int) -> TokenIds:
    """Positions of the k largest, ascending; of equal values the first ones."""
    kth = np.partition(values, values.size - k)[values.size - k]
    above = np.flatnonzero(values > kth)
    equal = np.flatnonzero(values == kth)[: k - above.size]
    return np.sort(np.concatenate((above, equal)))


@lru_cache(maxsize=4)
def _all_ids(n_vocab: int) -> TokenIds:
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids


@dataclass(frozen=True, slots=True)
class Occurrences:
    """What was drawn so far. ids: int64 [m], in the order of their first draw. counts: float64 [m], decayed."""

    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))

    def then(self, token: int, weight: float, decay: float) -> "Occurrences":
        """With one more draw: all counts decay, then the token's own grows by `weight`."""
        counts = self.counts * decay
        if (known := np.flatnonzero(self.ids == token)).size:
            counts[known] += weight
            return Occurrences(self.ids, counts)
        return Occurrences(np.append(self.ids, token), np.append(counts, weight))


def penalized(logits: Logits, drawn: Occurrences, presence: float, frequency: float) -> Logits:
    """logits[n] - (presence + count[n] * frequency) for each token n drawn before; the caller's array stays as it is.

    Raises InputError where a drawn token is outside of these logits' vocabulary.
    """
    if drawn.ids.size == 0 or (presence == 0 and frequency == 0):
        return logits
    if drawn.ids.max() >= logits.size:
        drew, n_vocab = int(drawn.ids.max()), logits.size
        raise InputError(f"this sampler has drawn token {drew} before, but these logits are for {n_vocab} tokens")
    out = logits.copy()
    out[drawn.ids] -= (presence + drawn.counts * frequency).astype(np.float32)
    return out


class Sampler:
    """Draws one sequence's tokens. What it remembers: `occurrences`, and the position of its random generator.

    uncounted: tokens whose repetition costs the presence penalty only (see `uncounted_tokens`).
    random: numbers from 0 to below 1, instead of the seeded generator. Each token takes exactly one, u, and is the
    first in order of id whose cumulative probability exceeds u; `numpy.random.RandomState(n).random_sample` gives the
    tokens that the official package draws after `numpy.random.seed(n)`.

    The same seed gives the same numbers on every platform and NumPy release: they are PCG64's upper 53 bits.
    """

    def __init__(
        self,
        sampling: Sampling | None = None,
        *,
        uncounted: frozenset[int] = frozenset(),
        random: Callable[[], float] | None = None,
    ) -> None:
        self.sampling = sampling or Sampling()
        self.uncounted = uncounted
        self.occurrences = Occurrences()
        self._random = random
        self._bits = np.random.PCG64(self.sampling.seed)

    def sample(self, logits: Logits) -> int:
        """The next token, for logits float32 [n_vocab], which stay as they are.

        Raises InputError for logits that are not one row of numbers, hold NaN, or leave no token to choose.
        """
        s = self.sampling
        row = penalized(_one_row(logits), self.occurrences, s.presence_penalty, s.frequency_penalty)
        ids, weights = _candidates(row, s)
        cumulative = np.cumsum(weights, out=weights)
        # Never past the end: even the largest double below 1, times the sum, rounds to less than the sum.
        token = int(ids[np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right")])
        self.occurrences = self.occurrences.then(token, 0.0 if token in self.uncounted else 1.0, s.penalty_decay)
        return token

    def copy(self) -> "Sampler":
        """An independent sampler that will draw as this one would (an injected `random` is shared)."""
        twin = Sampler(self.sampling, uncounted=self.uncounted, random=self._random)
        twin.occurrences = self.occurrences
        twin._bits.state = self._bits.state
        return twin

    def _uniform(self) -> float:
        if self._random is None:
            return float(self._bits.random_raw() >> 11) * 2.0**-53
        u = float(self._random())
        if not 0 <= u < 1:
            raise InputError(f"random must give numbers from 0 to below 1, got {u}")
        return u


UNCOUNTED_TEXT = " \t0123456789"


def uncounted_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that the official package does not count: substrings of " \\t0123456789", where these are one token.

    So the digits, the space and the tab; and, in the World vocabulary, also " \\t", "01", "12" to "89".
    """
    n = len(UNCOUNTED_TEXT)
    encoded = (_encode(tokenizer, UNCOUNTED_TEXT[i:j]) for i in range(n) for j in range(i + 1, n + 1))
    return frozenset(ids[0] for ids in encoded if len(ids) == 1)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """No ids where the vocabulary, of music perhaps, does not cover the text."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return []
