"""A state between two states: the weighted mean of what they stand for."""
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.slot import Slot

Array = NDArray[Any]


def blended(a: Array, b: Array, weight: float, slots: Iterable[Slot]) -> Array:
    """(1 - weight) * a + weight * b of two flat state arrays, for 0 < weight < 1; a new array.

    Token shifts, and the matrices that versions 5 to 7 keep a head, are blended number by number. Version 4 keeps an average
    as a numerator and a denominator, both divided by a running exp(exponent) (see `plan.Wkv4`): the true numerators and the
    true denominators are blended, so that each side counts by how much evidence it gathered, and are stored under the larger
    of both exponents.
    """
    out: Array = (1 - weight) * a + weight * b
    for slot in slots:
        if _has_exponents(slot):
            place = slice(slot.offset, slot.offset + slot.size)
            out[place] = _averages(a[place].reshape(slot.shape), b[place].reshape(slot.shape), weight).reshape(-1)
    return out.astype(a.dtype, copy=False)


def _has_exponents(slot: Slot) -> bool:
    """Whether this is version 4's [numerator, denominator, exponent] [3, C]; the others keep [H, N, N]."""
    return slot.name.endswith(".att.wkv") and len(slot.shape) == 2


def _averages(a: Array, b: Array, weight: float) -> Array:
    exponent = np.maximum(a[2], b[2])
    of_a, of_b = (1 - weight) * np.exp(a[2] - exponent), weight * np.exp(b[2] - exponent)
    return np.stack([of_a * a[0] + of_b * b[0], of_a * a[1] + of_b * b[1], exponent])
