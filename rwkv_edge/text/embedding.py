"""A text as one vector: what the model makes of it before the head turns that into logits."""
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import InputError

Pooling = Literal["last", "mean"]


def check_pooling(pooling: str) -> None:
    if pooling not in get_args(Pooling):
        raise InputError(f'pooling must be "last" or "mean", got {pooling!r:.40}')


def pooled(pieces: Iterable[NDArray[Any]], pooling: Pooling, normalize: bool) -> NDArray[np.float32]:
    """float32 [n_embd] of the rows [T, n_embd] after each token, which come in pieces; normalize: to Euclidean length 1."""
    count, total, last = 0, np.zeros(1), np.zeros(1)
    for rows in pieces:
        count, total, last = count + len(rows), total + rows.sum(axis=0, dtype=np.float64), rows[-1]
    vector = total / count if pooling == "mean" else last.astype(np.float64)
    if normalize and (length := float(np.linalg.norm(vector))):
        vector /= length
    return vector.astype(np.float32)
