"""What a run is given: checked, and in memory that compiled code can read without checking anything.

After a step the caches hold weights, not Python: whatever runs between two steps runs slowly, so the memory is kept for the
next batch of the same shape and few calls are made.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.backend import Batch
from rwkv_edge.errors import InputError

FEW = 8  # numbers that Python itself looks at faster than NumPy


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])  # array.ctypes.data takes ten times as long


@dataclass(slots=True, eq=False)
class Inputs:
    """Of one shape. starts: of each segment, and the end.  states: addresses.  frame: see shape/layout.py."""

    lengths: tuple[int, ...]
    tokens: NDArray[np.int32]
    outputs: NDArray[np.int32]
    states: NDArray[np.int64]
    starts: NDArray[np.int64]
    frame: NDArray[np.int64]

    @staticmethod
    def make(lengths: tuple[int, ...], n_outputs: int) -> "Inputs":
        if not lengths:
            raise InputError("no tokens to run: expected a sequence of at least one token id")
        if min(lengths) < 1:
            raise InputError(f"a segment needs at least one token, got segments of {list(lengths)}")
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        tokens, outputs = np.zeros(starts[-1], np.int32), np.zeros(n_outputs, np.int32)
        states = np.zeros(len(lengths), np.int64)
        frame = np.array([address(a) for a in (tokens, outputs, states, starts)] + [len(states)], np.int64)
        return Inputs(lengths, tokens, outputs, states, starts, frame)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens, outputs, segments."""
        return len(self.tokens), len(self.outputs), len(self.states)

    def fits(self, batch: Batch) -> bool:
        return self.lengths == tuple(batch.lengths) and len(self.outputs) == len(batch.outputs)

    def fill(self, batch: Batch, n_vocab: int | None, state_size: int) -> None:
        """Raises InputError for a batch that would make compiled code read or write elsewhere."""
        tokens, outputs = np.asarray(batch.tokens), np.asarray(batch.outputs)
        if tokens.shape != self.tokens.shape:
            raise InputError(f"segments of {list(self.lengths)} tokens do not make {tokens.shape}")
        if outputs.ndim != 1:
            raise InputError(f"outputs must be a list of rows, got {outputs.shape}")
        self.tokens[:] = tokens
        self.outputs[:] = outputs
        if n_vocab is not None and not all_below(self.tokens, n_vocab):
            raise InputError(f"a token id is outside the vocabulary, 0 to {n_vocab - 1}")
        if not all_below(self.outputs, len(self.tokens)):
            raise InputError(f"outputs must be rows from 0 to {len(self.tokens) - 1}")
        if len(batch.states) != len(self.states):
            raise InputError(f"{len(self.states)} segments need as many states, got {len(batch.states)}")
        self.states[:] = state_addresses(batch.states, state_size)


def input_addresses(inputs: Sequence[NDArray[Any]], widths: tuple[int, ...], n_tokens: int) -> list[int]:
    if [rows.shape for rows in inputs] != [(n_tokens, width) for width in widths]:
        raise InputError(f"expected inputs of {list(widths)} numbers a row, got {[rows.shape for rows in inputs]}")
    if not all(rows.dtype == np.float32 and rows.flags.c_contiguous and rows.flags.aligned for rows in inputs):
        raise InputError("inputs must be float32, contiguous and aligned")
    return [address(rows) for rows in inputs]


def all_below(numbers: NDArray[np.int32], limit: int) -> bool:
    """Whether all are from 0 to limit - 1."""
    if len(numbers) <= FEW:
        return all(0 <= number < limit for number in numbers.tolist())
    return bool(numbers.min() >= 0 and numbers.max() < limit)


def state_addresses(states: Sequence[NDArray[Any]], size: int) -> list[int]:
    addresses = []
    for state in states:
        flags = state.flags
        if state.dtype != np.float32 or state.shape != (size,):
            raise InputError(f"a state must be float32 [{size}], got {state.dtype} {list(state.shape)}")
        if not (flags.c_contiguous and flags.writeable and flags.aligned):
            raise InputError("a state must be contiguous, aligned and writeable")
        addresses.append(address(state))
    if len(addresses) > 1 and any(b - a < 4 * size for a, b in pairwise(sorted(addresses))):
        raise InputError("two segments share a state; each needs its own")
    return addresses
