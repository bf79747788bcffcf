"""Formats whose codes are rows of a grid, four magnitudes each, with the signs apart: as symmetric.py otherwise."""
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode.arithmetic import Floats, whole
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme
from rwkv_edge.quant.encode.symmetric import fit_scales

NEAR = 16  # rows of the grid that are tried for four weights


def find(scheme: Scheme, x: Floats, w: Floats, parts: Parts) -> None:
    """Fill `parts` for weights x, whose squared errors count w."""
    assert scheme.grid is not None
    grid = scheme.grid.astype(np.float32)
    magnitudes, minus = without_signs(scheme, x, w)
    parts.signs[...] = np.packbits(minus.transpose(2, 1, 0).reshape(len(parts.d), -1), axis=1, bitorder="little")
    v = fit_scales(scheme, magnitudes, w, lambda v: _values(grid, nearest_rows(scheme, v, w)), parts)
    rows = nearest_rows(scheme, v, w)
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


@cache
def neighbours(scheme: Scheme) -> NDArray[np.uint16]:
    """[4096, NEAR]: for each four levels, the first in the lowest 3 bits, the nearest rows of the grid, the nearest first."""
    assert scheme.grid is not None
    grid, levels = scheme.grid.astype(np.int64), np.unique(scheme.grid).astype(np.int64)
    points = levels[np.arange(4096)[:, None] >> np.array([0, 3, 6, 9]) & 7]
    distance = ((points[:, None] - grid) ** 2).sum(axis=2)
    order = distance * len(grid) + np.arange(len(grid))  # of equals the first
    return (np.sort(np.partition(order, NEAR, axis=1)[:, :NEAR], axis=1) % len(grid)).astype(np.uint16)


def nearest_rows(scheme: Scheme, v: Floats, w: Floats) -> NDArray[np.uint16]:
    """[size // 4, groups, blocks]: of each four values the nearest row of the grid, by weighted distance.

    Only the NEAR rows are tried that are nearest, without weights, to the four levels nearest to the values.
    """
    assert scheme.grid is not None
    grid = scheme.grid.astype(np.float32)
    fours, weights = v.reshape(-1, 4, *v.shape[1:]), w.reshape(-1, 4, *v.shape[1:])
    level = whole((fours - np.float32(scheme.low)) * np.float32(1 / scheme.level_step), 0, 7).astype(np.int64)
    keys = level[:, 0] + 8 * level[:, 1] + 64 * level[:, 2] + 512 * level[:, 3]
    least = np.full(keys.shape, np.inf, np.float32)
    found = np.zeros(keys.shape, np.uint16)
    for rows in np.moveaxis(neighbours(scheme)[keys], -1, 0):
        miss = fours - np.moveaxis(grid[rows], -1, 1)
        miss *= miss
        miss *= weights
        distance = miss[:, 0] + miss[:, 1] + miss[:, 2] + miss[:, 3]
        better = distance < least
        least, found = np.where(better, distance, least), np.where(better, rows, found)
    return found


def _values(grid: Floats, rows: NDArray[np.uint16]) -> Floats:
    """The magnitudes of rows [size // 4, groups, blocks], [size, groups, blocks]."""
    return np.moveaxis(grid[rows], -1, 1).reshape(-1, *rows.shape[1:])
