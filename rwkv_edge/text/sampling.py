"""From logits to the next token: penalties for repetition, the cut to likely tokens, temperature, one random number.

The semantics are those of the official package (`rwkv.utils.PIPELINE`, version 0.8, its NumPy branch), which the
settings published for RWKV models assume. Unlike elsewhere, top_p cuts before temperature, and top_k after top_p.

The steps in their order, the official ones marked *:
1. logit_bias is added, banned tokens get -inf (first, as in llama.cpp's chain).
2. repetition_penalty: the logit of each token that counts (the official package's rule, see `uncounted_tokens`) is divided
   by it where it is above 0, else multiplied (Keskar et al., CTRL, arXiv:1909.05858, in the form of transformers'
   RepetitionPenaltyLogitsProcessor). Only what was drawn counts, here and in step 3, not the prompt.
3. * presence_penalty and frequency_penalty are subtracted (after repetition_penalty, as in llama.cpp).
4. * top_p, of the probabilities that these logits give.
5. * top_k.
6. min_p: tokens below min_p times the largest probability go (Nguyen et al., arXiv:2407.01082).
7. typical_p: of what is left, as probabilities that sum to 1, the tokens whose surprise, -log p, is nearest to the expected
   one, the entropy: the fewest that reach typical_p together, and all as near as the last of them (Meister et al.,
   arXiv:2202.00666). min_p before typical_p is transformers' order.
8. * temperature, and one draw.

Where we differ from the official package, on purpose:
- top_p = 1 keeps every token. There the official running sum, in float32, may end a little below 1, and then only the
  most likely token is left; or it reaches 1 early, and then the tail is lost.
- Greedy choices (temperature 0, top_p 0, top_k 1) take the lowest id among equal logits, and of tokens that tie for the
  last of the top_k places the lowest ids stay. The official package draws among equals in the first two cases and
  leaves the others to an unstable sort, whose outcome depends on the processor.
- Sums are float64, and temperature is applied to logits, not to rounded probabilities, so that none above 0 underflows
  (the official package divides 0 by 0 when it is low enough).
"""
import math
from collections.abc import Callable, Iterable, Mapping
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
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0.01, 100),
}
INTEGERS: dict[str, tuple[int, int]] = {"top_k": (0, 2**31 - 1), "seed": (0, 2**64 - 1)}
MOST_TOKENS = 2**31 - 1
MOST_BIAS = 100


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
    min_p: 0 to 1; tokens with less than min_p times the largest probability go; 0: none.
    typical_p: 0 to 1; the tokens of the most expected surprise that reach this probability stay; 1: all.
    repetition_penalty: 0.01 to 100; divides the logit (a negative one: multiplies it) of what was drawn before; 1: off.
    logit_bias: token id -> number added to its logit, -100 to 100.
    banned_tokens: ids that are never drawn. 0 among them: the text does not end by itself.

    The module's docstring gives the order of the steps and their sources. Raises InputError naming the field.
    """

    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    presence_penalty: float = 0.5
    frequency_penalty: float = 0.5
    penalty_decay: float = 0.996
    seed: int | None = None
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    banned_tokens: Iterable[int] = frozenset()

    def __post_init__(self) -> None:
        for name, (low, high) in NUMBERS.items():
            object.__setattr__(self, name, float(_in_range(name, getattr(self, name), Real, low, high)))
        for name, (low, high) in INTEGERS.items():
            if name != "seed" or self.seed is not None:
                object.__setattr__(self, name, int(_in_range(name, getattr(self, name), Integral, low, high)))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        object.__setattr__(self, "banned_tokens", _checked_tokens("banned_tokens", self.banned_tokens))


def _checked_bias(bias: Any) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise InputError(f"logit_bias must map token ids to numbers, got {bias!r:.40}")
    ids = [int(_in_range("logit_bias's token", token, Integral, 0, MOST_TOKENS)) for token in bias]
    values = [float(_in_range("logit_bias", value, Real, -MOST_BIAS, MOST_BIAS)) for value in bias.values()]
    return dict(zip(ids, values, strict=True))


def _checked_tokens(name: str, tokens: Any) -> frozenset[int]:
    if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
        raise InputError(f"{name} must be token ids, got {tokens!r:.40}")
    return frozenset(int(_in_range(name, token, Integral, 0, MOST_TOKENS)) for token in tokens)


def _in_range(name: str, value: Any, kind: type, low: float, high: float) -> Any:
    of_kind = isinstance(value, kind) and not isinstance(value, bool)
    if not of_kind or not low <= value <= high:
        what = "a number" if kind is Real else "an integer"
        raise InputError(f"{name} must be {what} from {low} to {high}, got {value!r:.40}")
    return value


def probabilities(
    logits: Logits, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0, typical_p: float = 1.0
) -> NDArray[np.float64]:
    """The distribution that tokens are drawn from: float64 [n_vocab], summing to 1, 0 for the tokens that were cut.

    Raises InputError for logits that are not one row of numbers or hold NaN, and for settings that `Sampling` refuses.
    """
    settings = Sampling(temperature, top_p, top_k, min_p=min_p, typical_p=typical_p)
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
    """The tokens that the cuts leave, and their weights: exp((logit - the largest) / temperature)."""
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
        if settings.min_p > 0:
            likely = weights >= math.log(settings.min_p)
            ids, weights = ids[likely], weights[likely]
        if settings.typical_p < 1:
            typical = _typical(weights, settings.typical_p)
            ids, weights = ids[typical], weights[typical]
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


def _typical(log_weights: NDArray[np.float64], enough: float) -> NDArray[np.bool_]:
    """Which have a surprise among the nearest to the entropy that sum to `enough`, or as near as the last of those."""
    weights = np.exp(log_weights)
    total = float(weights.sum())
    surprise = np.log(total) - log_weights
    possible = weights > 0
    entropy = float(weights[possible] @ surprise[possible]) / total
    distance = np.abs(surprise - entropy)  # infinite where a token is impossible
    nearest = np.argsort(distance, kind="stable")
    reached = int(np.searchsorted(np.cumsum(weights[nearest]), enough * total))
    farthest = float(distance[nearest[min(reached, nearest.size - 1)]])
    typical: NDArray[np.bool_] = possible & (distance <= farthest)
    return typical


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


def penalized(logits: Logits, drawn: Occurrences, presence: float, frequency: float, repetition: float = 1.0) -> Logits:
    """logits[n] - (presence + count[n] * frequency) for each token n drawn before; the caller's array stays as it is.

    Before that, a logit whose count is above 0 is divided by `repetition`, or multiplied where it is negative.
    Raises InputError where a drawn token is outside of these logits' vocabulary.
    """
    if drawn.ids.size == 0 or (presence == 0 and frequency == 0 and repetition == 1):
        return logits
    if drawn.ids.max() >= logits.size:
        drew, n_vocab = int(drawn.ids.max()), logits.size
        raise InputError(f"this sampler has drawn token {drew} before, but these logits are for {n_vocab} tokens")
    out = logits.copy()
    if repetition != 1:
        counted = drawn.ids[drawn.counts > 0]
        before, factor = out[counted], np.float32(repetition)
        with np.errstate(over="ignore"):
            out[counted] = np.where(before > 0, before / factor, before * factor)
    out[drawn.ids] -= (presence + drawn.counts * frequency).astype(np.float32)
    return out


@dataclass(frozen=True, slots=True)
class Biases:
    """What is added to some logits. ids: int64 [m]; values: float32 [m], -inf for banned tokens."""

    ids: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, sampling: Sampling) -> "Biases":
        wanted = {**sampling.logit_bias, **dict.fromkeys(sampling.banned_tokens, -math.inf)}
        return cls(np.array(list(wanted), np.int64), np.array(list(wanted.values()), np.float32))

    def check_fits(self, n_vocab: int) -> None:
        """Raises InputError where a token is outside of the vocabulary."""
        if self.ids.size and (wrong := int(self.ids.max())) >= n_vocab:
            raise InputError(f"logit_bias or banned_tokens names token {wrong}, but these logits are for {n_vocab} tokens")

    def added_to(self, logits: Logits) -> Logits:
        """A copy, unless nothing is added. Raises InputError where a token is outside of these logits' vocabulary."""
        if self.ids.size == 0:
            return logits
        self.check_fits(logits.size)
        out = logits.copy()
        out[self.ids] += self.values
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
        if sampling is not None and not isinstance(sampling, Sampling):
            raise InputError(f"sampling must be a Sampling or a Sampler, got {type(sampling).__name__}")
        self.sampling = sampling or Sampling()
        self.uncounted = uncounted
        self.occurrences = Occurrences()
        self._biases = Biases.of(self.sampling)
        self._random = random
        self._bits = np.random.PCG64(self.sampling.seed)

    def check_fits(self, n_vocab: int) -> None:
        """Raises InputError where the settings name a token outside of the vocabulary, before there are logits."""
        self._biases.check_fits(n_vocab)

    def sample(self, logits: Logits) -> int:
        """The next token, for logits float32 [n_vocab], which stay as they are.

        Raises InputError for logits that are not one row of numbers, hold NaN, or leave no token to choose.
        """
        s = self.sampling
        row = self._biases.added_to(_one_row(logits))
        row = penalized(row, self.occurrences, s.presence_penalty, s.frequency_penalty, s.repetition_penalty)
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
