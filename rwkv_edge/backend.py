"""What a backend is: a package that turns a Plan into something that runs. plan.py defines the ops."""
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # who only holds an executable needs neither
    from rwkv_edge.plan import Op, Plan
    from rwkv_edge.weights.tensor import Tensor


TOKENS_PER_RUN = 512  # at most: a longer prompt goes through in pieces, which bounds the activations' memory


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one run: T tokens of S segments.

    tokens: int32 [T], the segments one behind the other.  lengths: tokens of each segment, all >= 1, summing to T.
    states: one flat array [plan.state_size] of the executable's `state_dtype` a segment; updated in place (see `HoldsStates`).
    outputs: int32 [M], rows (0 <= row < T) whose logits are wanted, in ascending order; may be empty.
    inputs: [T, width] of the executable's `state_dtype`, contiguous, for each `Input` of the plan; none for a whole model.
    """

    tokens: NDArray[np.int32]
    lengths: Sequence[int]
    states: Sequence[NDArray[Any]]
    outputs: NDArray[np.int32]
    inputs: Sequence[NDArray[Any]] = ()


class Executable(Protocol):
    """A compiled Plan. Not re-entrant: the caller makes one `run` at a time."""

    @property
    def state_dtype(self) -> np.dtype[Any]: ...

    def run(self, batch: Batch) -> list[NDArray[Any]]:
        """The plan's results, in their order: of a model one, logits [M, n_vocab] for `batch.outputs`. The arrays belong to the
        caller."""
        ...

    def close(self) -> None:
        """Give back threads and memory. Calling it again does nothing."""
        ...


@runtime_checkable
class HoldsStates(Protocol):
    """An executable whose states stay in a device's memory between runs (it is their `rwkv_edge.state.Holder`).

    After `run` the numbers of an array that was in `Batch.states` are on the device, and the next run with the same array
    object goes on from there; the array itself is out of date until `fetch`. With `release` the device forgets the state, so
    that the next run takes what is in the array then. `close` fetches what is still there. May be called from any thread.
    """

    def fetch(self, state: NDArray[Any], release: bool = True) -> None: ...


@runtime_checkable
class SharesWeights(Protocol):
    """An executable with copies of weights that others can compute with. plan: its ops."""

    @property
    def plan(self) -> "Plan": ...

    def beside(self, plan: "Plan") -> Executable:
        """What runs a plan of some of the ops, with the same copies. It is closed with this one."""
        ...


@runtime_checkable
class LimitsRuns(Protocol):
    """An executable that wants longer prompts in runs of at most so many tokens: it is as fast, and takes less memory."""

    @property
    def tokens_per_run(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can work here. reason: one sentence, and the command that would change it, when it cannot.

    automatic: whether `auto` may choose it: not, where its only device is the CPU under another name.
    """

    available: bool
    reason: str = ""
    automatic: bool = True


@dataclass(frozen=True, slots=True)
class Traits:
    """What a backend says of itself, so that the core need name none. Known without loading the library of any device.

    rank: `auto` tries lower ones first while their speed is not known, and weights are encoded by the first that can.
    last_resort: `auto` takes it only where no other works, however fast it is.
    precisions: of activations and states, those that `compile` offers.
    stands_in_for: names of backends that it replaces in a strategy where they cannot work: it computes on the same processor.
    needs_device: computes elsewhere than on this machine's processor; what a strategy for another engine means by `cuda`.
    definition: computes what `rwkv_edge.plan` says, so that others are tested against it; there is one such.
    """

    rank: int = 100
    last_resort: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    stands_in_for: tuple[str, ...] = ()
    needs_device: bool = False
    definition: bool = False


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a plan is to run. A backend that has no choice in something ignores it.

    precision: "fp32" or "fp64" activations; None: the backend's own.  threads: how many work on a step; None: the backend's
    choice.  sparse: whether weights that meet a zero of relu² are left out where that takes a second copy of the matrix; None:
    where memory allows. The result is the same but for rounding.
    """

    precision: str | None = None
    threads: int | None = None
    sparse: bool | None = None


DEFAULT_OPTIONS = CompileOptions()


@runtime_checkable
class Backend(Protocol):
    """What an entry point of the group `rwkv_edge.backends` loads to (an instance, or a module with these names).

    name: that of the entry point.
    """

    name: str
    traits: Traits

    def availability(self) -> Availability: ...

    def supports(self, op: "Op") -> bool:
        """Whether the backend computes this op, from its weights as they are: format, shape, strides, alignment.

        Where it does not take the matrix of a `MatMul` or `Embed` it is asked again with the matrix in f32, row by row. A plan
        with an op that it takes in no form is refused. For a matrix that is yet to be converted it is asked with one that has
        its format and shape, but no numbers, and stride 0 from row to row (`rwkv_edge.weights.tensor.absent`).
        """
        ...

    def compile(self, plan: "Plan", options: CompileOptions = DEFAULT_OPTIONS) -> Executable:
        """Raises BackendError where it cannot run the plan, or not with these options."""
        ...


@runtime_checkable
class HasDevices(Protocol):
    """A backend that can run on one of several devices."""

    def select(self, which: str) -> Backend:
        """The same backend on the device of that number (from 0) or name. This or `compile` raises BackendError without one."""
        ...


@runtime_checkable
class SharesMemory(Protocol):
    """A backend whose device may have no memory of its own."""

    def shares_memory(self) -> bool:
        """Whether what it allocates is this machine's memory. Raises BackendError where there is no device."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """kind: "cpu", "discrete", "integrated", "software" or "other".  memory: bytes, None where the driver does not tell.

    driver: what else decides how fast it is: a driver and its version.
    """

    name: str
    kind: str
    memory: int | None = None
    driver: str = ""


@runtime_checkable
class ListsDevices(Protocol):
    """A backend that can tell what it would run on."""

    def devices(self) -> Sequence[Device]:
        """In the order of their numbers, best first. Only called where the backend is available."""
        ...


@runtime_checkable
class ReadsInPlace(Protocol):
    """A backend that multiplies with weights where they lie, so that those of a mapped file need not all be in memory."""

    def compile_beside(self, plan: "Plan", other: Executable | None, options: CompileOptions) -> Executable:
        """As `compile`, without copies of weights. other: one of this backend that never runs at the same time: they may share
        memory and threads."""
        ...


class ConvertsWeights(Protocol):
    """Matrices that are converted when they are asked for. `AsStored` is the least; strategies have another."""

    def format(self, tensor: "Tensor") -> str:
        """What a matrix becomes, its numbers permitting; after `look` also where they do not."""
        ...

    def each(self, tensors: "Sequence[Tensor]") -> "Generator[Tensor, None, None]":
        """The matrices as they become, in this order."""
        ...

    def look(self) -> None:
        """Convert all matrices, to know their formats; none is kept."""
        ...


class AsStored:
    """`ConvertsWeights` that converts nothing."""

    def format(self, tensor: "Tensor") -> str:
        return tensor.format

    def each(self, tensors: "Sequence[Tensor]") -> "Generator[Tensor, None, None]":
        yield from tensors

    def look(self) -> None:
        pass


@runtime_checkable
class CopiesWeights(Protocol):
    """A backend that copies the matrices of `MatMul` ops to a memory of its own: the host needs none of them afterwards, and
    only a few at a time."""

    def compile_converting(self, plan: "Plan", conversions: ConvertsWeights, options: CompileOptions) -> Executable:
        """As `compile`; conversions: what its matrices are to become on their way."""
        ...


@runtime_checkable
class CompilesAhead(Protocol):
    """A backend that keeps what it compiles between processes."""

    def warm_up(self) -> None:
        """Compile all that any model could need and that is not there yet; the logger "rwkv_edge.kernels" says each (INFO)."""
        ...


class Encoder(Protocol):
    """Floats to blocks: see `rwkv_edge.quant.encode.encode`, which is the definition."""

    def __call__(
        self, format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]: ...


@runtime_checkable
class Encodes(Protocol):
    """A backend that has an encoder of its own, faster than the definition."""

    def encode(
        self, format: str, weights: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """The same errors as the definition's, and bytes of the same quality."""
        ...
