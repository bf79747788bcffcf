"""A plan and a strategy become an executable: layers to backends, weights to formats, stages to what runs them."""
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import auto
from rwkv_edge.backend import DEFAULT_OPTIONS, Backend, CompileOptions, CopiesWeights, Executable, ReadsInPlace, SharesMemory
from rwkv_edge.convert.conversions import Conversions
from rwkv_edge.errors import BackendError, NotEnoughMemoryError, StrategyError
from rwkv_edge.machine.mapping import is_mapped
from rwkv_edge.machine.memory import available_memory
from rwkv_edge.plan import Embed, MatMul, Op, Plan
from rwkv_edge.progress import Progress
from rwkv_edge.strategy.budget import suggestion, within_budget
from rwkv_edge.strategy.cut import Stage, cut
from rwkv_edge.strategy.devices import backends_for, reader_in_place
from rwkv_edge.strategy.grammar import ELSEWHERE, Part, Strategy
from rwkv_edge.strategy.memory import LayerWeights, Sizes, readable
from rwkv_edge.strategy.notices import FallbackWarning, StrategyNotice
from rwkv_edge.strategy.placement import placements
from rwkv_edge.strategy.split import Link, SplitExecutable
from rwkv_edge.weights.tensor import Tensor, absent


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """How a layer runs."""

    backend: Backend
    weight_format: str | None
    precision: str | None
    streamed: bool

    def joins(self, other: "Seat") -> bool:
        """Whether one executable can run both, with weights in formats of their own."""
        same = self.backend is other.backend and not (self.streamed or other.streamed)
        return same and (self.precision == other.precision or None in (self.precision, other.precision))


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """name: of the backends, in the order of their layers.  strategy: what was chosen, where it left something open.

    plan: the whole model's, with the weights that the host has: as the backends compute with them, or as stored where a device
    has made copies.  matrix_bytes: of all that a token is multiplied with, in the formats that the backends compute with.
    """

    name: str
    plan: Plan
    executable: Executable
    strategy: Strategy
    matrix_bytes: int


@dataclass(frozen=True, slots=True)
class Loading:
    """See `compiled`."""

    options: CompileOptions
    progress: Progress | None
    allocated: bool


def compiled(
    plan: Plan,
    strategy: Strategy,
    options: CompileOptions = DEFAULT_OPTIONS,
    *,
    progress: Progress | None = None,
    allocated: bool = False,
) -> Compiled:
    """options: precision is the strategy's business.  progress: of the conversion, see `converted_all`.  allocated: the weights
    are in memory already, so that nothing is to be checked.

    "auto" goes on to the next backend, with a FallbackWarning, where one turns out not to run the plan.
    Raises StrategyError; BackendError, also where memory does not suffice.
    """
    sizes = Sizes(plan)
    if strategy.budget is not None:
        strategy, options = within_budget(strategy, sizes), replace(options, sparse=options.sparse or False)
    loading = Loading(options, progress, allocated)
    if strategy.parts[0].device is not None:
        return _compiled(plan, strategy.parts, backends_for(strategy.parts), sizes, loading)
    refusals: list[BackendError] = []
    for backend in auto.candidates():
        if refusals:
            warnings.warn(f"running on the {backend.name} backend: {refusals[-1]}", FallbackWarning, stacklevel=4)
        try:
            return _compiled(plan, strategy.parts, [backend], sizes, loading)
        except NotEnoughMemoryError:
            raise
        except BackendError as error:
            refusals.append(error)
    raise refusals[0]


def _compiled(
    plan: Plan, parts: Sequence[Part], backends: Sequence[Backend], sizes: Sizes, loading: Loading
) -> Compiled:
    seats = _seats(parts, backends, max(1, len(plan.layer_starts)))
    if not loading.allocated:
        _check_memory(seats, sizes)
    options = loading.options
    conversions = Conversions(_wanted(plan, seats), threads=options.threads, progress=loading.progress)
    _refuse_unsupported(plan, seats, conversions)
    plan = _in_formats(plan, seats, conversions, options.threads)
    name = " -> ".join(name for name, _ in groupby(seat.backend.name for seat in seats))
    strategy = Strategy(tuple(_as_chosen(part, backend) for part, backend in zip(parts, backends, strict=True)))
    begins = [i for i, seat in enumerate(seats) if i == 0 or not seat.joins(seats[i - 1])]
    executable: Executable
    if len(begins) == 1 and not seats[0].streamed:
        executable = _whole(plan, seats, conversions, options)
    else:
        stages = cut(plan, [plan.layer_starts[i] for i in begins[1:]])
        groups = [seats[begin:end] for begin, end in pairwise([*begins, len(seats)])]
        executable = _split(stages, groups, conversions, options)
    matrices = [op.weight for op in plan.ops if isinstance(op, MatMul)]
    nbytes = sum(absent(weight, conversions.format(weight)).nbytes for weight in matrices)
    return Compiled(name, plan, executable, strategy, nbytes)


def _as_chosen(part: Part, backend: Backend) -> Part:
    return replace(part, device=backend.name, which=None if part.device in ELSEWHERE else part.which)


def _seats(parts: Sequence[Part], backends: Sequence[Backend], n_places: int) -> list[Seat]:
    seats = []
    for placement in placements(parts, n_places):
        part, backend = parts[placement.part], backends[placement.part]
        if placement.streamed and not isinstance(backend, ReadsInPlace):
            backend = reader_in_place()
        seats.append(Seat(backend, None if placement.streamed else part.weight_format, part.precision, placement.streamed))
    for part, backend in zip(parts, backends, strict=True):
        moved = sum(seat.streamed and seat.backend is not backend for seat in seats)
        if part.streams and moved:
            reader = next(seat.backend.name for seat in seats if seat.streamed)
            told = f"{backend.name} keeps its weights on the device: the {moved} streamed layers run on the {reader} backend"
            warnings.warn(told, StrategyNotice, stacklevel=6)
    return seats


def _check_memory(seats: Sequence[Seat], sizes: Sizes) -> None:
    """Raises BackendError where the layers of backends that work in this machine's memory do not fit into it."""
    here = [_works_here(seat.backend) for seat in seats]
    layers = [LayerWeights(seat.weight_format, seat.streamed) for seat in seats]
    elsewhere = sum(sizes.layers(layer.format)[i] for i, layer in enumerate(layers) if not here[i])
    need, there = sizes.need(layers).total - elsewhere, available_memory()
    if need > there:
        device = next((seat.backend.name for seat, mine in zip(seats, here, strict=True) if mine), seats[0].backend.name)
        fits = suggestion(device, there, sizes)
        raise NotEnoughMemoryError(f"the model needs {readable(need)} of memory, {readable(there)} are available; {fits}")


def _works_here(backend: Backend) -> bool:
    return isinstance(backend, ReadsInPlace) or (isinstance(backend, SharesMemory) and backend.shares_memory())


def _seated(plan: Plan, seats: Sequence[Seat]) -> Iterator[tuple[int, Seat, Op]]:
    """(position, seat, op) of all ops."""
    bounds = [*(plan.layer_starts or (0,)), len(plan.ops)]
    for seat, (begin, end) in zip(seats, pairwise(bounds), strict=True):
        yield from ((i, seat, plan.ops[i]) for i in range(begin, end))


def _matrices(plan: Plan, seats: Sequence[Seat]) -> Iterator[tuple[int, Seat, MatMul | Embed]]:
    """Likewise, of all ops with a matrix."""
    return ((i, seat, op) for i, seat, op in _seated(plan, seats) if isinstance(op, MatMul | Embed))


def _wanted(plan: Plan, seats: Sequence[Seat]) -> Iterator[tuple[Tensor, str]]:
    """The matrices for which a format was asked, with it. Where layers are streamed the embedding stays as stored: a step reads
    a row of it."""
    streams = any(seat.streamed for seat in seats)
    for _, seat, op in _matrices(plan, seats):
        if seat.weight_format is not None and not (streams and isinstance(op, Embed)):
            yield op.weight, seat.weight_format


def _refuse_unsupported(plan: Plan, seats: Sequence[Seat], conversions: Conversions) -> None:
    """Before anything is converted. Raises BackendError for an op that its backend takes in no form."""
    for _, seat, op in _seated(plan, seats):
        if not any(seat.backend.supports(form) for form in _forms(op, conversions)):
            raise _unsupported(seat.backend, op)


def _unsupported(backend: Backend, op: Op) -> BackendError:
    matrix = f" of {op.weight.name}, {op.weight.shape}" if isinstance(op, MatMul | Embed) else ""
    return BackendError(f"the {backend.name} backend has no kernel for {type(op).__name__}{matrix}")


def _forms(op: Op, conversions: Conversions) -> Iterator[Op]:
    """What a backend may be given for an op, best first; without the numbers of a matrix that is yet to be converted."""
    if not isinstance(op, MatMul | Embed):
        yield op
        return
    format = conversions.format(op.weight)
    yield op if format == op.weight.format else replace(op, weight=absent(op.weight, format))
    yield replace(op, weight=absent(op.weight, "f32"))


def _in_formats(plan: Plan, seats: Sequence[Seat], conversions: Conversions, threads: int | None) -> Plan:
    """The plan with those matrices converted that backends compute with where the host has them.

    A matrix that a backend does not take is decoded to float32, row by row: exact, at the price of memory.
    """
    ops = list(plan.ops)
    here = [(i, seat.backend, op) for i, seat, op in _matrices(plan, seats) if not _converts(seat.backend, op, conversions)]
    made = list(conversions.each([op.weight for _, _, op in here]))
    wrong = [made[k] for k, (_, backend, op) in enumerate(here) if not backend.supports(replace(op, weight=made[k]))]
    decoded = Conversions([(weight, "f32") for weight in wrong], threads=threads).each(made)
    for (i, backend, op), weight in zip(here, decoded, strict=True):
        ops[i] = replace(op, weight=weight)
        if not backend.supports(ops[i]):  # float32 in the file already, in strides that it does not take
            ops[i] = replace(op, weight=replace(weight, data=np.array(weight.data, order="C")))
            if not backend.supports(ops[i]):
                raise _unsupported(backend, op)
    return replace(plan, ops=tuple(ops))


def _converts(backend: Backend, op: MatMul | Embed, conversions: Conversions) -> bool:
    """Whether the backend takes the matrix as it is stored: the host only keeps that of an `Embed`, to look rows up."""
    copies = isinstance(op, MatMul) and isinstance(backend, CopiesWeights)
    return copies and backend.supports(next(_forms(op, conversions)))


def _whole(plan: Plan, seats: Sequence[Seat], conversions: Conversions, options: CompileOptions) -> Executable:
    """What runs a plan whose seats can be joined."""
    backend, options = seats[0].backend, replace(options, precision=_precision(seats))
    if isinstance(backend, CopiesWeights):
        return backend.compile_converting(plan, conversions, options)
    return backend.compile(plan, options)


def _split(
    stages: Sequence[Stage], groups: Sequence[Sequence[Seat]], conversions: Conversions, options: CompileOptions
) -> SplitExecutable:
    links: list[Link] = []
    in_place: dict[int, Executable] = {}  # backend -> its last executable: those in one model never run at the same time
    try:
        for stage, seats in zip(stages, groups, strict=True):
            backend = seats[0].backend
            if seats[0].streamed:
                assert isinstance(backend, ReadsInPlace)
                other = in_place.get(id(backend))
                executable = backend.compile_beside(stage.plan, other, replace(options, precision=_precision(seats)))
            else:
                executable = _whole(stage.plan, seats, conversions, options)
            if isinstance(backend, ReadsInPlace):
                in_place[id(backend)] = executable
            links.append(Link(stage, executable, *(_streamed(stage.plan) if seats[0].streamed else ())))
        if len({link.executable.state_dtype for link in links}) > 1:
            raise StrategyError("the parts of a split must have the same precision: fp64 for all of them, or for none")
    except BaseException:
        for link in links:
            link.executable.close()
        raise
    return SplitExecutable(links)


def _streamed(plan: Plan) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
    """The weights in the mapped file: of matrix products, and of the embedding."""
    mapped = [op for op in plan.ops if isinstance(op, MatMul | Embed) and is_mapped(op.weight.data)]
    whole, rows = ([op.weight.data for op in mapped if isinstance(op, kind)] for kind in (MatMul, Embed))
    return tuple(whole), tuple(rows)


def _precision(seats: Sequence[Seat]) -> str | None:
    return next((seat.precision for seat in seats if seat.precision is not None), None)
