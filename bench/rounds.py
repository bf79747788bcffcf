"""Interleaved measurement: every contender once a round, so that a slow minute of the machine hits all alike."""
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def interleave(contenders: Sequence[T], measure: Callable[[T], float], rounds: int) -> list[float]:
    """The median of each contender's measurements; an unmeasured round comes first."""
    results: list[list[float]] = [[] for _ in contenders]
    for turn in range(rounds + 1):
        for contender, values in zip(contenders, results, strict=True):
            value = measure(contender)
            if turn:
                values.append(value)
    return [median(values) for values in results]
