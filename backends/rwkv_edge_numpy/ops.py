"""Every op of `rwkv_edge.plan` in plain NumPy: one short function each, the definition that other backends are tested against.

Arrays have the run's dtype (float32 or float64). `rows` of a buffer come first: x [T, width]. `Segments` says which rows belong
to which sequence. Functions return the op's result; those with a slot also update the sequences' states in place.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.plan import DECAY7_SCALE, ActivationKind
from rwkv_edge.slot import Slot

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Segments:
    """Consecutive rows per sequence, and each sequence's flat state array."""

    lengths: Sequence[int]
    states: Sequence[Array]

    def with_state(self, slot: Slot) -> Iterator[tuple[slice, Array]]:
        """(rows of a sequence, its slot as a view of the slot's shape) for each sequence."""
        start = 0
        for length, state in zip(self.lengths, self.states, strict=True):
            yield slice(start, start + length), state[slot.offset : slot.offset + slot.size].reshape(slot.shape)
            start += length


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred: Array = x - x.mean(-1, keepdims=True)
    normalized: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return normalized * weight + bias


def group_norm(x: Array, weight: Array, bias: Array, n_head: int, eps: float) -> Array:
    heads = x.reshape(len(x), n_head, -1)
    shape = heads.shape[1:]
    return layer_norm(heads, weight.reshape(shape), bias.reshape(shape), eps).reshape(x.shape)


def l2_normalize(x: Array, n_head: int, eps: float) -> Array:
    heads = x.reshape(len(x), n_head, -1)
    norm: Array = np.sqrt((heads**2).sum(-1, keepdims=True))
    return (heads / np.maximum(norm, eps)).reshape(x.shape)


def token_shift(x: Array, segments: Segments, slot: Slot) -> Array:
    previous = np.empty_like(x)
    for rows, last in segments.with_state(slot):
        previous[rows.start] = last
        previous[rows.start + 1 : rows.stop] = x[rows.start : rows.stop - 1]
        last[:] = x[rows.stop - 1]
    return previous


def lerp(a: Array, b: Array, weight: Array) -> Array:
    return a + (b - a) * weight


def matmul(x: Array, weight: Array) -> Array:
    return x @ weight.T


def sigmoid(x: Array) -> Array:
    # exp(-|x|) cannot overflow; both branches are 1 / (1 + exp(-x)).
    small = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, small) / (1 + small)
    return y


ACTIVATIONS: dict[ActivationKind, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * sigmoid(x),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "exp_neg_exp": lambda x: np.exp(-np.exp(x)),
    "decay7": lambda x: np.exp(DECAY7_SCALE * sigmoid(x)),
}


def wkv4(k: Array, v: Array, decay: Array, first: Array, segments: Segments, slot: Slot) -> Array:
    y = np.empty_like(k)
    for rows, (a, b, p) in segments.with_state(slot):
        for t in range(rows.start, rows.stop):
            q = np.maximum(p, first + k[t])
            old, new = np.exp(p - q), np.exp(first + k[t] - q)
            y[t] = (old * a + new * v[t]) / (old * b + new)
            q = np.maximum(p + decay, k[t])
            old, new = np.exp(p + decay - q), np.exp(k[t] - q)
            a[:], b[:], p[:] = old * a + new * v[t], old * b + new, q
    return y


def wkv6(r: Array, k: Array, v: Array, decay: Array, bonus: Array, n_head: int, segments: Segments, slot: Slot) -> Array:
    decay = np.broadcast_to(decay, k.shape)
    r, k, v, decay, bonus = (z.reshape(-1, n_head, z.shape[-1] // n_head) for z in (r, k, v, decay, bonus))
    y = np.empty_like(r)
    for rows, state in segments.with_state(slot):
        for t in range(rows.start, rows.stop):
            kv = k[t, :, :, None] * v[t, :, None, :]
            y[t] = np.einsum("hi,hij->hj", r[t], bonus[0, :, :, None] * kv + state)
            state[:] = decay[t, :, :, None] * state + kv
    return y.reshape(len(y), -1)


def wkv7(
    r: Array, decay: Array, k: Array, v: Array, kk: Array, a: Array, n_head: int, segments: Segments, slot: Slot
) -> Array:
    r, decay, k, v, kk, a = (z.reshape(len(z), n_head, -1) for z in (r, decay, k, v, kk, a))
    y = np.empty_like(r)
    for rows, state in segments.with_state(slot):
        for t in range(rows.start, rows.stop):
            removed = np.einsum("hij,hj->hi", state, kk[t])
            state *= decay[t, :, None, :]
            state += v[t, :, :, None] * k[t, :, None, :] - removed[:, :, None] * (kk[t] * a[t])[:, None, :]
            y[t] = np.einsum("hij,hj->hi", state, r[t])
    return y.reshape(len(y), -1)


def head_bonus(r: Array, k: Array, v: Array, weight: Array, n_head: int) -> Array:
    products: Array = (r * k * weight).reshape(len(r), n_head, -1).sum(-1, keepdims=True)
    return (products * v.reshape(len(v), n_head, -1)).reshape(v.shape)
