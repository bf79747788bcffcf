"""What a backend adds to this room: a device's memory, its kernel language, and launches."""
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """binding: bytes a kernel can see of one memory.  groups: workgroups per launch and dimension.

    threads: of a workgroup, a power of two, at least 128.
    """

    binding: int
    groups: int = 65535
    threads: int = 256


@dataclass(frozen=True, slots=True)
class Dialect:
    """The few lines in which kernel languages differ.

    let, let_index: a float32 or an index, {name} and {value}.  each_channel: the loop of a row's threads over c.
    choose: if (group < {end}) the workgroup's Member is {numbers}.  case, end_case: around the lines for member {case}.
    """

    let: str
    let_index: str
    each_channel: str
    choose: str
    case: str
    end_case: str


class RunShape(NamedTuple):
    """rows: T tokens.  outputs: rows with logits.  segments: sequences."""

    rows: int
    outputs: int
    segments: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """Source to compile: the backend's files (one that needs another stands behind it), constants, and what goes where the
    files say BODY and CHOOSE.

    Equal kernels are compiled once.
    """

    files: tuple[str, ...]
    constants: tuple[tuple[str, int], ...]
    body: str
    choose: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A launch. words: the kernel's parameters.  weights: what it reads of matrices, or None.  grid: workgroups for a run.

    what: for messages and measurements.
    """

    kernel: Kernel
    words: tuple[int, ...]
    weights: Any
    grid: Callable[[RunShape], Grid]
    what: str


class Driver(Protocol):
    """A device that is open. `Memory` and `Recording` are the driver's own; every method may raise BackendError."""

    name: str
    limits: Limits
    dialect: Dialect

    def allocate(self, nbytes: int, what: str) -> Any:
        """Zeroed memory that kernels can use."""
        ...

    def free(self, memory: Any) -> None: ...

    def write(self, memory: Any, offset: int, data: NDArray[Any]) -> None:
        """Copy `data` to byte `offset`, before whatever is launched later."""
        ...

    def filling(self, memory: Any, offset: int, nbytes: int) -> AbstractContextManager[NDArray[np.uint8]]:
        """As `write`, of so many bytes, which come to be in the block: all of them, in the array that it gets."""
        ...

    def read(self, memory: Any, offset: int, out: NDArray[Any]) -> None:
        """Fill `out` from byte `offset`, after whatever was launched before."""
        ...

    def record(self, steps: Sequence[Step], arena: Any, vectors: Any, states: Any, inputs: Any) -> Any:
        """Compile what is new, bind everything: a recording that `launch` can repeat."""
        ...

    def launch(self, recording: Any, grids: Sequence[Grid], arena: Any, offset: int, out: NDArray[np.float32]) -> None:
        """All steps in order as one submission; then fill `out` from the arena's byte `offset`."""
        ...

    def close(self) -> None: ...
