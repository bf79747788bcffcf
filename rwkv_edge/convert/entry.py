"""What will be written: a list of entries, each a tensor of the new file made of views of the old one."""
import math
from collections.abc import Iterator
from dataclasses import dataclass

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor

WEIGHTS_A_PIECE = 1 << 20  # as floats: 4 MB


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written, row-major.

    name, shape, format: in the new file.  parts: what it holds, one after the other; their rows are its rows.
    factor: what the weights are multiplied by, a power of two.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    parts: tuple[Tensor, ...]
    factor: float = 1.0

    @property
    def nbytes(self) -> int:
        return FORMATS[self.format].nbytes(self.shape)

    @property
    def source_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def pieces(self) -> Iterator[Tensor]:
        """The parts in pieces of a bounded number of weights, all of whole rows."""
        for part in self.parts:
            if len(part.shape) < 2 or part.size <= WEIGHTS_A_PIECE:
                yield part
                continue
            step = max(1, WEIGHTS_A_PIECE // math.prod(part.shape[1:]))
            for start in range(0, part.shape[0], step):
                yield part[start : start + step]
