"""How likely a model finds given tokens."""
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOGITS_PER_RUN = 128  # of the logits of so many tokens, 32 MB with the World vocabulary, the memory is bounded
ROWS_AT_A_TIME = 8  # whose probabilities are computed together, in float64

AllLogits = Callable[[NDArray[np.int32]], NDArray[Any]]  # tokens, fed one after the other -> the logits after each


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """[T, n_vocab] log probabilities."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def few_rows(logits: NDArray[Any], targets: NDArray[np.int64]) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Rows of logits with the token wanted after each, few enough at a time for float64 copies."""
    for start in range(0, len(targets), ROWS_AT_A_TIME):
        yield logits[start : start + ROWS_AT_A_TIME], targets[start : start + ROWS_AT_A_TIME]


def log_probabilities_of(targets: NDArray[np.int64], logits: NDArray[Any]) -> NDArray[np.float64]:
    """[T]: of each target, given its row of `logits` [T, n_vocab]."""
    parts = [np.take_along_axis(log_softmax(rows), wanted[:, None], axis=1)[:, 0] for rows, wanted in few_rows(logits, targets)]
    return np.concatenate(parts) if parts else np.zeros(0)


def following(tokens: NDArray[np.int32], all_logits: AllLogits) -> NDArray[np.float64]:
    """[T - 1]: of each token but the first, given those before it. All T tokens are fed."""
    parts = []
    for start in range(0, len(tokens), LOGITS_PER_RUN):
        rows = all_logits(tokens[start : start + LOGITS_PER_RUN])
        targets = tokens[start + 1 : start + 1 + len(rows)].astype(np.int64)
        parts.append(log_probabilities_of(targets, rows[: len(targets)]))
    return np.concatenate(parts)
