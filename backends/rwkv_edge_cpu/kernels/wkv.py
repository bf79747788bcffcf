"""The recurrences. Each unit belongs to one sequence, so its part of the state is touched by one thread."""
from functools import cache
from typing import Any

from rwkv_edge_cpu.code.intrinsics import floats, int64s
from rwkv_edge_cpu.code.jit import REDUCTION, Kernel, inlined, kernel, with_globals
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.wkv import wkv6_token, wkv7_token
from rwkv_edge_cpu.kernels.math32 import ZERO, exp, larger
from rwkv_edge_cpu.shape.layout import (
    HEADS,
    N_FIELDS,
    N_FRAME,
    OUT,
    SEGMENTS,
    SHARED,
    SLOT,
    STARTS,
    STATES,
    WIDTH,
    A,
    B,
    C,
    D,
    E,
    F,
)

# The templates' globals, see `jit.with_globals`.
LANES = 0  # floats in a vector
token_6 = token_7 = whole_vectors = lambda *_: None


@kernel(REDUCTION)
def wkv4(record, frame, scratch, begin, end):
    """Units: channels, segment after segment. A: k, B: v, C: decay, D: first."""
    fields, run = int64s(record, N_FIELDS), int64s(frame, N_FRAME)
    states, starts = int64s(run[STATES], run[SEGMENTS]), int64s(run[STARTS], run[SEGMENTS] + 1)
    width = fields[WIDTH]
    while begin < end:
        s, channel = begin // width, begin % width
        n = min(width - channel, end - begin)
        begin += n
        decay, first = floats(fields[C] + 4 * channel, n), floats(fields[D] + 4 * channel, n)
        slot = states[s] + 4 * (fields[SLOT] + channel)
        a, b, p = floats(slot, n), floats(slot + 4 * width, n), floats(slot + 8 * width, n)
        for t in range(starts[s], starts[s + 1]):
            at = 4 * (t * width + channel)
            y, k, v = floats(fields[OUT] + at, n), floats(fields[A] + at, n), floats(fields[B] + at, n)
            for i in range(n):
                x = first[i] + k[i]
                q = larger(p[i], x)
                old, new = exp(p[i] - q), exp(x - q)
                y[i] = (old * a[i] + new * v[i]) / (old * b[i] + new)
                x = p[i] + decay[i]
                q = larger(x, k[i])
                old, new = exp(x - q), exp(k[i] - q)
                a[i] = old * a[i] + new * v[i]
                b[i] = old * b[i] + new
                p[i] = q


def in_whole_vectors(n):
    """Whether a head of this size is for ir/wkv.py."""
    return n % LANES == 0 and n % 4 == 0


def heads_of_6(record, frame, scratch, begin, end):
    """Units: heads, segment after segment. A: r, B: k, C: v, D: decay (vector or buffer), E: bonus."""
    fields, run = int64s(record, N_FIELDS), int64s(frame, N_FRAME)
    states, starts = int64s(run[STATES], run[SEGMENTS]), int64s(run[STARTS], run[SEGMENTS] + 1)
    width, heads = fields[WIDTH], fields[HEADS]
    n = width // heads
    for unit in range(begin, end):
        s, first = unit // heads, unit % heads * n
        state = states[s] + 4 * (fields[SLOT] + first * n)
        bonus = floats(fields[E] + 4 * first, n)
        for t in range(starts[s], starts[s + 1]):
            at = 4 * (t * width + first)
            y, v = floats(fields[OUT] + at, n), floats(fields[C] + at, n)
            r, k = floats(fields[A] + at, n), floats(fields[B] + at, n)
            decay = floats(fields[D] + (4 * first if fields[SHARED] else at), n)
            now = ZERO
            for i in range(n):
                now += r[i] * bonus[i] * k[i]
            for j in range(n):
                y[j] = now * v[j]
            if whole_vectors(n):
                decay_at = fields[D] + (4 * first if fields[SHARED] else at)
                token_6(state, fields[A] + at, fields[B] + at, fields[C] + at, decay_at, fields[OUT] + at, n)
                continue
            for i in range(n):
                row = floats(state + 4 * i * n, n)
                ri, ki, di = r[i], k[i], decay[i]
                for j in range(n):
                    y[j] += ri * row[j]
                    row[j] = di * row[j] + ki * v[j]


def heads_of_7(record, frame, scratch, begin, end):
    """Units: heads, segment after segment. A: r, B: decay, C: k, D: v, E: kk, F: a."""
    fields, run = int64s(record, N_FIELDS), int64s(frame, N_FRAME)
    states, starts = int64s(run[STATES], run[SEGMENTS]), int64s(run[STARTS], run[SEGMENTS] + 1)
    width, heads = fields[WIDTH], fields[HEADS]
    n = width // heads
    written = floats(scratch, n)
    for unit in range(begin, end):
        s, first = unit // heads, unit % heads * n
        state = states[s] + 4 * (fields[SLOT] + first * n)
        for t in range(starts[s], starts[s + 1]):
            at = 4 * (t * width + first)
            r, decay, k = floats(fields[A] + at, n), floats(fields[B] + at, n), floats(fields[C] + at, n)
            y, v = floats(fields[OUT] + at, n), floats(fields[D] + at, n)
            kk, a = floats(fields[E] + at, n), floats(fields[F] + at, n)
            for j in range(n):
                written[j] = kk[j] * a[j]
            if whole_vectors(n):
                keys, values = fields[C] + at, fields[D] + at
                token_7(state, fields[A] + at, fields[B] + at, keys, values, fields[E] + at, scratch, fields[OUT] + at, n)
                continue
            for i in range(n):
                row = floats(state + 4 * i * n, n)
                removed = ZERO
                for j in range(n):
                    removed += row[j] * kk[j]
                vi, total = v[i], ZERO
                for j in range(n):
                    value = row[j] * decay[j] - removed * written[j] + vi * k[j]
                    row[j] = value
                    total += value * r[j]
                y[i] = total


@cache
def _whole_vectors(cpu: Target) -> Any:
    return inlined(with_globals(in_whole_vectors, "whole_vectors", LANES=cpu.lanes))


@cache
def wkv6(cpu: Target) -> Kernel:
    names = {"token_6": wkv6_token(cpu), "whole_vectors": _whole_vectors(cpu)}
    return kernel(REDUCTION)(with_globals(heads_of_6, "wkv6", **names))


@cache
def wkv7(cpu: Target) -> Kernel:
    names = {"token_7": wkv7_token(cpu), "whole_vectors": _whole_vectors(cpu)}
    return kernel(REDUCTION)(with_globals(heads_of_7, "wkv7", **names))
