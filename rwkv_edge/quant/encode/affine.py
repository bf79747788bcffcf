"""Formats with offsets: weight = d * s * code - dmin * m. As symmetric.py, with an offset beside each scale."""
import numpy as np

from rwkv_edge.quant.encode.arithmetic import Floats, at_least_half, divided, growth, half, inverse, total, whole
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme

SHIFTS = (0.0, 0.45)  # the first code begins this many steps above the least weight
SINGULAR = np.float32(1e-6)

Fit = tuple[Floats, Floats, Floats, Floats]  # d [blocks], s [groups, blocks], dmin, m


def find(scheme: Scheme, x: Floats, w: Floats, parts: Parts) -> None:
    """Fill `parts` for weights x, whose squared errors count w."""
    d, s, dmin, m = fit(scheme, x, w, *runs(scheme, x, w))
    q = whole((x + dmin * m) * inverse(d * s), 0, scheme.high)
    parts.codes[...] = q.transpose(2, 1, 0).reshape(parts.codes.shape)
    xy = d * total(s * total(w * q * x)) - dmin * total(m * total(w * x))
    more = growth(total(total(w * x * x)), xy)
    parts.d[...], parts.s[...] = half(d * more) + np.float32(0), s.T  # no zero is negative
    parts.dmin[...], parts.m[...] = half(dmin * more) + np.float32(0), m.T


def tries(scheme: Scheme) -> list[tuple[float, float]]:
    """Scales and offsets to begin with: the codes that a run's range is tried as, and the part of the range that is left out
    below the first code."""
    return [(start, shift / start) for start in scheme.starts for shift in SHIFTS]


def runs(scheme: Scheme, x: Floats, w: Floats) -> tuple[Floats, Floats]:
    """The best scale and offset of each run, [groups, blocks] each."""
    lowest, highest = x[0], x[0]
    for one in x[1:]:
        lowest, highest = np.minimum(lowest, one), np.maximum(highest, one)
    signed = scheme.offset_high == 1
    if not signed:
        lowest = np.minimum(lowest, np.float32(0))
    y, reach = x - lowest, highest - lowest  # from zero, so that sums keep their digits
    sw, sy, syy = total(w), total(w * y), total(w * y * y)
    least, scale, offset = np.full_like(reach, np.inf), np.zeros_like(reach), np.zeros_like(reach)
    first = tries(scheme)
    for turn in range(len(first) + scheme.turns):
        if turn < len(first):
            inv, base = np.float32(first[turn][0]) * inverse(reach), reach * np.float32(first[turn][1])
        else:
            inv, base = inverse(scale), offset
        q = whole((y - base) * inv, 0, scheme.high)
        wq = w * q
        sq, sqq, syq = total(wq), total(wq * q), total(wq * y)
        det = sw * sqq - sq * sq
        alike = det <= sw * sqq * SINGULAR  # all codes are the same: any offset would do
        a = np.where(alike, divided(syq, sqq), divided(sw * syq - sy * sq, det))
        b = np.where(alike, np.float32(0), divided(sqq * sy - sq * syq, det))
        if not signed:  # an offset is subtracted: the first code's weight is at most 0
            over = b > -lowest
            a, b = np.where(over, divided(syq + lowest * sq, sqq), a), np.where(over, -lowest, b)
        error = syy + a * (a * sqq - (syq + syq)) + b * (b * sw + (a * sq - sy) * np.float32(2))
        better = error < least
        least, scale, offset = np.where(better, error, least), np.where(better, a, scale), np.where(better, b, offset)
    return scale, -(lowest + offset)


def fit(scheme: Scheme, x: Floats, w: Floats, scales: Floats, offsets: Floats) -> Fit:
    """d, s, dmin and m that come near the runs' scales and offsets."""
    signed = scheme.offset_high == 1
    top, top_offset = (scales[0], offsets[0]) if signed else (scales.max(axis=0), offsets.max(axis=0))
    best: Fit = (np.zeros_like(top), np.ones_like(scales), np.zeros_like(top), np.ones_like(scales))
    least, sw, sx = np.full_like(top, np.inf), total(w), total(w * x)
    for start in scheme.tops:
        d = at_least_half(top * np.float32(1 / start))
        dmin = at_least_half(top_offset * np.float32(1 / (start - scheme.scale_high + scheme.offset_high)))
        s = whole(scales * inverse(d), scheme.scale_low, scheme.scale_high)
        m = whole(offsets * inverse(dmin), float(signed), scheme.offset_high)
        for _ in range(scheme.rounds):
            errors, s, m, xq, q, qq = _choose(scheme, x, w, d, s, dmin, m)
            error = total(errors)
            better = error < least
            least = np.where(better, error, least)
            now: Fit = d, s, dmin, m
            best = tuple(np.where(better, a, b) for a, b in zip(now, best, strict=True))  # type: ignore[assignment]
            d, dmin = _least_squares(total(s * s * qq), total(s * m * q), total(m * m * sw), total(s * xq), total(m * sx), dmin)
            if not signed:
                dmin = np.maximum(dmin, np.float32(0))
    return best


def _least_squares(aa: Floats, ab: Floats, bb: Floats, xa: Floats, xb: Floats, dmin: Floats) -> tuple[Floats, Floats]:
    """(d, dmin) for which d * a - dmin * b is nearest to x, from sums of products; dmin as it is where they leave it open."""
    det = aa * bb - ab * ab
    open_ = det <= aa * bb * SINGULAR
    d = np.where(open_, divided(xa + dmin * ab, aa), divided(xa * bb - xb * ab, det))
    return half(d), half(np.where(open_, dmin, divided(xa * ab - xb * aa, det)))


def _choose(scheme: Scheme, x: Floats, w: Floats, d: Floats, s: Floats, dmin: Floats, m: Floats) -> tuple[Floats, ...]:
    """Of each run's (s, m) and its neighbours the one of least error: (errors, s, m, sums of w x q, w q and w q q)."""
    found: tuple[Floats, ...] = ()
    for ds, dm in scheme.neighbours:
        new_s = np.clip(s + np.float32(ds), np.float32(scheme.scale_low), np.float32(scheme.scale_high))
        new_m = np.clip(m + np.float32(dm), np.float32(0), np.float32(scheme.offset_high))
        scale = d * new_s
        y = x + dmin * new_m
        q = whole(y * inverse(scale), 0, scheme.high)
        wq, miss = w * q, y - scale * q
        new = total(w * (miss * miss)), new_s, new_m, total(wq * x), total(wq), total(wq * q)
        found = tuple(np.where(new[0] < found[0], a, b) for a, b in zip(new, found, strict=True)) if found else new
    return found
