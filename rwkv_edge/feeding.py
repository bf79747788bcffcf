"""From sequences of tokens to the batches that a backend runs."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.backend import Batch, Executable, HoldsStates
from rwkv_edge.errors import InputError
from rwkv_edge.state import State

Tokens = Sequence[int] | NDArray[np.integer[Any]]


def checked_tokens(tokens: Tokens, n_vocab: int) -> NDArray[np.int32]:
    """As an array [T]. Raises InputError for what is no sequence of at least one token id of this vocabulary."""
    if isinstance(tokens, str | bytes):
        raise InputError("expected token ids, got text; model.tokenizer.encode makes ids of it")
    # Between two steps NumPy is out of the cache and slow: the one token of a step is checked without it.
    if isinstance(tokens, list) and len(tokens) == 1 and type(tokens[0]) is int and 0 <= tokens[0] < n_vocab:
        return np.array(tokens, np.int32)
    try:
        array = np.asarray(tokens)
    except (ValueError, OverflowError) as error:
        raise InputError(f"expected one sequence of token ids: {error}") from error
    if array.ndim != 1:
        raise InputError(f"expected one sequence of token ids, got {type(tokens).__name__} of {array.ndim} axes")
    if array.size == 0:
        raise InputError("no tokens to run: expected a sequence of at least one token id")
    if array.dtype.kind not in "iu":
        raise InputError(f"token ids must be integers of at most 64 bits, got {array.dtype}")
    if array.min() < 0 or array.max() >= n_vocab:
        bad = int(array[(array < 0) | (array >= n_vocab)][0])
        raise InputError(f"token id {bad} is outside the vocabulary, 0 to {n_vocab - 1}")
    return array.astype(np.int32)


class Feeder:
    """Runs an executable on sequences of any lengths, in rounds of at most `tokens_at_once` tokens."""

    def __init__(self, executable: Executable, tokens_at_once: int) -> None:
        self._executable = executable
        self._holder = executable if isinstance(executable, HoldsStates) else None
        self._tokens_at_once = tokens_at_once

    def run(self, sequences: list[NDArray[np.int32]], states: list[State], full: bool) -> list[NDArray[Any]]:
        """For each sequence its last row, [width], or all, [T, width]. Rounds are shared evenly by those with tokens left."""
        rows_of: list[list[NDArray[Any]]] = [[] for _ in sequences]
        at = [0] * len(sequences)
        while active := [i for i, tokens in enumerate(sequences) if at[i] < len(tokens)]:
            share = max(1, self._tokens_at_once // len(active))
            pieces = [sequences[i][at[i] : at[i] + piece_length(len(sequences[i]) - at[i], share)] for i in active]
            outputs: list[int] = []
            ends, end = [], 0
            for i, piece in zip(active, pieces, strict=True):
                at[i] += len(piece)
                begin, end = end, end + len(piece)
                outputs += range(begin, end) if full else [end - 1] * (at[i] == len(sequences[i]))
                ends.append(len(outputs))
            batch = Batch(
                pieces[0] if len(pieces) == 1 else np.concatenate(pieces),
                [len(piece) for piece in pieces],
                [self._array_of(states[i]) for i in active],
                np.array(outputs, np.int32),
            )
            rows = self._executable.run(batch)[0]
            for i, piece, begin, end in zip(active, pieces, [0, *ends], ends, strict=False):
                states[i].tokens_seen += len(piece)
                rows_of[i].append(rows[begin:end])
        return [(parts[0] if len(parts) == 1 else np.concatenate(parts)) if full else parts[-1][-1] for parts in rows_of]

    def _array_of(self, state: State) -> NDArray[Any]:
        """The array for a run: fetched from wherever else it is held; after the run our executable may hold it."""
        array = state.array if state.holder is self._holder else state.data
        state.holder = self._holder
        return array


def piece_length(n_tokens: int, limit: int) -> int:
    """Of the first of as few pieces of at most `limit` tokens as there can be, all about equal: a short rest would be slow."""
    n_pieces = -(-n_tokens // limit)
    return -(-n_tokens // n_pieces)
