"""Formats without offsets: weight = d * s * code.

    runs   each run by itself: try scales that put its extreme onto or beyond the last code; codes are the nearest ones, and
           to these belongs a best scale by least squares; the best of all, then codes and scale in turn
    fit    d so that the runs' scales are near multiples; then by turns, each run chooses among neighbouring multiples (with
           new codes), and d becomes the least-squares scale of the whole block, rounded to half precision
    last   d grows a little: see `growth`

Arrays are float32 [size, groups, blocks]: all is elementwise along the blocks, and sums go along the first axis.
"""
from collections.abc import Callable

import numpy as np

from rwkv_edge.quant.encode.arithmetic import Floats, at_least_half, divided, growth, half, inverse, total, whole
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme

Nearest = Callable[[Floats], Floats]  # weights / scale -> the nearest codes


def find(scheme: Scheme, x: Floats, w: Floats, parts: Parts) -> None:
    """Fill `parts` for weights x, whose squared errors count w."""
    levels = np.array(scheme.levels, np.float32)
    between = (levels[1:] + levels[:-1]) / 2

    def nearest(v: Floats) -> Floats:
        return np.take(levels, np.searchsorted(between, v)) if scheme.levels else whole(v, scheme.low, scheme.high)

    v = fit_scales(scheme, x, w, nearest, parts)
    codes = np.searchsorted(between, v) if scheme.levels else nearest(v) - scheme.low
    parts.codes[...] = codes.transpose(2, 1, 0).reshape(parts.codes.shape)


def fit_scales(scheme: Scheme, x: Floats, w: Floats, nearest: Nearest, parts: Parts) -> Floats:
    """Fills in d and s; returns the weights divided by their scales: the nearest codes to these are theirs."""
    d, s = fit(scheme, x, w, nearest, runs(scheme, x, w, nearest))
    v = x * inverse(d * s)
    xy = d * total(s * total(w * nearest(v) * x))
    d = half(d * growth(total(total(w * x * x)), xy), scheme.unit)
    parts.d[...], parts.s[...] = d * np.float32(scheme.unit) + np.float32(0), s.T  # no zero is negative
    return v


def runs(scheme: Scheme, x: Floats, w: Floats, nearest: Nearest) -> Floats:
    """The best scale of each run, [groups, blocks]."""
    outward = inverse(_extreme(x) if scheme.grid is None else np.abs(_extreme(x)))
    gain: Floats = np.zeros_like(x[0])
    scale: Floats = np.zeros_like(x[0])
    for turn in range(len(scheme.starts) + scheme.turns):
        q = nearest(x * (np.float32(scheme.starts[turn]) * outward if turn < len(scheme.starts) else inverse(scale)))
        wq = w * q
        xq = total(wq * x)
        best = divided(xq, total(wq * q))
        better = xq * best > gain  # by this much the squared error is less than that of zeros
        gain, scale = np.where(better, xq * best, gain), np.where(better, best, scale)
    return scale


def _extreme(x: Floats) -> Floats:
    """Along the first axis."""
    found: Floats = x[0]
    for one in x[1:]:
        found = np.where(np.abs(one) > np.abs(found), one, found)
    return found


def fit(scheme: Scheme, x: Floats, w: Floats, nearest: Nearest, scales: Floats) -> tuple[Floats, Floats]:
    """d [blocks] and s [groups, blocks] that come near the runs' scales."""
    top = _extreme(scales)
    least, d_best, s_best = np.full_like(top, np.inf), np.zeros_like(top), np.ones_like(scales)
    for start in scheme.tops:
        d = at_least_half(top * np.float32(1 / start), scheme.unit)
        s = multiple(scheme, scales * inverse(d))
        for _ in range(scheme.rounds):
            errors, s, xq, qq = _choose(scheme, x, w, nearest, d, s)
            error = total(errors)
            better = error < least
            least, d_best, s_best = np.where(better, error, least), np.where(better, d, d_best), np.where(better, s, s_best)
            d = half(divided(total(s * xq), total(s * s * qq)), scheme.unit)
    return d_best, s_best


def multiple(scheme: Scheme, v: Floats) -> Floats:
    """The nearest value of s."""
    low, high, step = scheme.scale_low, scheme.scale_high, scheme.step
    return whole((v - np.float32(low)) * np.float32(1 / step), 0, (high - low) // step) * np.float32(step) + np.float32(low)


def _choose(scheme: Scheme, x: Floats, w: Floats, nearest: Nearest, d: Floats, s: Floats) -> tuple[Floats, ...]:
    """Of each run's s and its neighbours the one of least error: (errors, s, sums of w x q and of w q q), [groups, blocks]."""
    found: tuple[Floats, ...] = ()
    for change, _ in scheme.neighbours:
        candidate = np.clip(s + np.float32(change), np.float32(scheme.scale_low), np.float32(scheme.scale_high))
        scale = d * candidate
        q = nearest(x * inverse(scale))
        wq, miss = w * q, x - scale * q
        new = total(w * (miss * miss)), candidate, total(wq * x), total(wq * q)
        found = tuple(np.where(new[0] < found[0], a, b) for a, b in zip(new, found, strict=True)) if found else new
    return found
