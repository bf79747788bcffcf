"""What each block format can express, as numbers: the searches know no format by name.

A block is `groups` runs of `size` weights. weight = d * s * code, where d is the block's half-precision scale and s the run's
small integer (1 where runs have none); formats with offsets subtract dmin * m, likewise a half and a small integer.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.grids import IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """low, high: codes of a weight: the whole numbers from one to the other, but `levels` where there are some, and of a `grid`
    (rows of four magnitudes, with signs apart) the least and the largest.

    scale_low, scale_high, step: the values of s.  offset_high: the largest m; 0: no offsets; 1: dmin of either sign, m is 1.
    unit: d is 1 / unit times what is stored.  even: among 8 weights the number of minus signs is even.
    level_step: between the magnitudes of a grid (but the last).
    How long is searched.  starts: codes that a run's extreme (its range, with offsets) is tried as; turns: of codes and scale.
    tops: values of s that a block's largest scale is tried as; rounds: of s and d.
    """

    groups: int
    size: int
    low: int
    high: int
    starts: tuple[float, ...]
    scale_low: int = 1
    scale_high: int = 1
    tops: tuple[float, ...] = (1,)
    step: int = 1
    offset_high: int = 0
    levels: tuple[int, ...] = ()
    grid: NDArray[np.int8] | None = None
    unit: int = 1
    level_step: int = 0
    even: bool = False
    turns: int = 2
    rounds: int = 3

    @property
    def block_size(self) -> int:
        return self.groups * self.size

    @property
    def neighbours(self) -> tuple[tuple[int, int], ...]:
        """Changes of (s, m) that a run chooses from, to itself the first."""
        if self.scale_high == 1:
            return ((0, 0),)
        if self.offset_high:
            return (0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1)
        return (0, 0), (-self.step, 0), (self.step, 0)

    @property
    def largest(self) -> float:
        """No weight may be larger: half precision ends there."""
        codes = self.offset_high or max(-self.low, self.high) * max(-self.scale_low, self.scale_high)
        return 65504.0 * codes / self.unit


def span(first: float, last: float, n: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.linspace(first, last, n, dtype=np.float32))


_LEVELS = tuple(int(level) for level in IQ4_LEVELS)
_IQ4_STARTS = (*span(-150, -85, 12), *span(85, 135, 8))

SCHEMES: dict[str, Scheme] = {
    "q4_0": Scheme(1, 32, -8, 7, (*span(-10, -6, 13), *span(6, 8.5, 6))),
    "q5_0": Scheme(1, 32, -16, 15, (*span(-19, -13, 13), *span(13, 17, 6))),
    "q4_1": Scheme(1, 32, 0, 15, span(11, 18, 25), offset_high=1),
    "q5_1": Scheme(1, 32, 0, 31, span(24, 34, 30), offset_high=1),
    "q2_k": Scheme(16, 16, 0, 3, span(2, 4.5, 13), 0, 15, (14, 15, 15.5), offset_high=15),
    "q3_k": Scheme(16, 16, -4, 3, (*span(-6, -2.5, 13), *span(2.5, 4, 5)), -32, 31, (-32, -30, 31)),
    "q4_k": Scheme(8, 32, 0, 15, span(11, 18, 25), 0, 63, (62, 63, 63.5), offset_high=63),
    "q5_k": Scheme(8, 32, 0, 31, span(25, 34.5, 32), 0, 63, (62, 63, 63.5), offset_high=63),
    "q6_k": Scheme(16, 16, -32, 31, (*span(-33.5, -22, 24), *span(22, 32.5, 18)), -128, 127, (-128, -126, 127)),
    "iq4_nl": Scheme(1, 32, -127, 113, _IQ4_STARTS, levels=_LEVELS),
    "iq4_xs": Scheme(8, 32, -127, 113, _IQ4_STARTS, -32, 31, (-32, -30, 31), levels=_LEVELS),
    "iq3_xxs": Scheme(8, 32, 4, 62, span(36, 80, 12), 1, 31, (31,), 2, grid=IQ3_XXS_GRID, level_step=8, unit=4, even=True),
    "iq3_s": Scheme(8, 32, 1, 15, span(9, 19, 12), 1, 31, (31,), 2, grid=IQ3_S_GRID, level_step=2),
}
