"""What fine-tuning adds to a matrix W [out, in]: each kind changes some of its rows in place, given where they start.

Sources: RWKV-PEFT's merge scripts; LoRA arXiv:2106.09685, PiSSA arXiv:2404.02948, Bone/DiSHA arXiv:2409.15371.
"""
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Adapter(Protocol):
    def change(self, rows: Floats, first: int) -> None:
        """`rows` [n, in] are the rows of W from `first` on, contiguous, and become those of the adapted matrix."""
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + scale * up @ down. down [rank, in], up [out, rank]. PiSSA takes its first factors away in the same way."""

    down: Floats
    up: Floats
    scale: float

    def change(self, rows: Floats, first: int) -> None:
        rows += (self.up[first : first + len(rows)] * np.float32(self.scale)) @ self.down


@dataclass(frozen=True, slots=True)
class Blocks:
    """Bone: W is cut into squares of r; those in column j get W_ij + W_ij @ B_j + B_j. blocks B [in / r, r, r]."""

    blocks: Floats

    def change(self, rows: Floats, first: int) -> None:
        count, r, _ = self.blocks.shape
        squares = rows.reshape(len(rows), count, r).swapaxes(0, 1)
        within = (first + np.arange(len(rows))) % r
        added = squares @ self.blocks + self.blocks[:, within]
        rows += added.swapaxes(0, 1).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class Repeated:
    """DiSHA: W[o, c] + pattern[c % r, o]. pattern [r, out]."""

    pattern: Floats

    def change(self, rows: Floats, first: int) -> None:
        columns = np.arange(rows.shape[1]) % len(self.pattern)
        rows += self.pattern[columns, first : first + len(rows)].T
