"""Formats whose codes are rows of a grid, four magnitudes each, with the signs apart: as symmetric.py otherwise."""
import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode.arithmetic import Floats, inverse
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme
from rwkv_edge.quant.encode.symmetric import fit_scales


def find(scheme: Scheme, x: Floats, w: Floats, parts: Parts) -> None:
    """Fill `parts` for weights x, whose squared errors count w."""
    assert scheme.grid is not None
    grid = scheme.grid.astype(np.float32)
    magnitudes, minus = without_signs(scheme, x, w)
    parts.signs[...] = np.packbits(minus.transpose(2, 1, 0).reshape(len(parts.d), -1), axis=1, bitorder="little")
    scale = fit_scales(scheme, magnitudes, w, lambda v: _values(grid, nearest_rows(grid, v, w)), parts)
    rows = nearest_rows(grid, magnitudes * inverse(scale), w)
    parts.codes[...] = rows.transpose(2, 1, 0).reshape(parts.codes.shape)


def without_signs(scheme: Scheme, x: Floats, w: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Magnitudes, and where the signs are minus. Where the number of these must be even and is not, the cheapest weight is
    given the wrong sign, and a negative magnitude."""
    minus = x < 0
    if scheme.even:
        eights = minus.reshape(-1, 8, *x.shape[1:])
        odd = np.logical_xor.reduce(eights, axis=1)
        cheapest = (w * (x * x)).reshape(eights.shape).argmin(axis=1)
        eights ^= odd[:, None] & (np.arange(8)[:, None, None] == cheapest[:, None])
    return np.where(minus, -x, x), minus


def nearest_rows(grid: Floats, v: Floats, w: Floats) -> NDArray[np.uint16]:
    """[size // 4, groups, blocks], rows of the grid, at the least weighted distance from each four values; the first of equals."""
    fours, weights = v.reshape(-1, 4, *v.shape[1:]), w.reshape(-1, 4, *v.shape[1:])
    least = np.full((len(fours), *v.shape[1:]), np.inf, np.float32)
    found = np.zeros(least.shape, np.uint16)
    for row, values in enumerate(grid):
        miss = fours - values[:, None, None]
        miss *= miss
        miss *= weights
        distance = miss[:, 0] + miss[:, 1] + miss[:, 2] + miss[:, 3]
        better = distance < least
        least[better] = distance[better]
        found[better] = row
    return found


def _values(grid: Floats, rows: NDArray[np.uint16]) -> Floats:
    """The magnitudes of rows [size // 4, groups, blocks], [size, groups, blocks]."""
    return np.moveaxis(grid[rows], -1, 1).reshape(-1, *rows.shape[1:])
