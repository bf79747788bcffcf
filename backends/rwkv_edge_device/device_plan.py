"""A Plan as device memory and steps, for each way in which it may be run."""
from collections.abc import Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby
from typing import Any

from rwkv_edge import plan as p
from rwkv_edge.backend import AsStored, ConvertsWeights
from rwkv_edge.errors import BackendError
from rwkv_edge.machine.mapping import release
from rwkv_edge.weights.tensor import Tensor, absent
from rwkv_edge_device import kernels
from rwkv_edge_device.allocation import Arena, Vectors, host_row_offsets
from rwkv_edge_device.driver import Driver, Limits, Step
from rwkv_edge_device.fusion import MAX_MEMBERS, Fusion, Member, fusions
from rwkv_edge_device.packing import layout_of, pack

Key = tuple[tuple[int, int], ...]  # (index of the product, first row) of each member


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """Where the words of a fusion's member go: byte `offset` of a memory."""

    member: Member
    memory: Any
    offset: int


class DevicePlan:
    """What is on the device whatever the run: vectors and matrices. Steps are made when a run first needs them.

    plan: with matrices that only tell their shapes and formats, those on the device.
    conversions: what becomes of the plan's matrices on their way; the host keeps none.
    Raises BackendError where the device has too little memory, or a matrix has rows that are too long for it.
    """

    def __init__(self, plan: p.Plan, driver: Driver, conversions: ConvertsWeights) -> None:
        self.driver = driver
        self._vectors = Vectors(plan)
        self._matrices: dict[Key, Any] = {}
        self._lay_out(plan, conversions)
        self.vectors = driver.allocate(self._vectors.data.nbytes, "vectors")
        driver.write(self.vectors, 0, self._vectors.data)
        if not self._upload(plan, conversions):
            for memory in self._matrices.values():
                driver.free(memory)
            self._matrices.clear()
            conversions.look()
            self._lay_out(plan, conversions)
            self._upload(plan, conversions)

    def part(self, plan: p.Plan) -> "DevicePlan":
        """That of a plan of some of this one's ops, in the same memory."""
        part = copy(self)
        part._lay_out(plan, AsStored())
        return part

    @property
    def matrix_bytes(self) -> int:
        return sum(_nbytes(member) for fusion in self.schedules[True] for member in fusion.members)

    def steps(self, one_each: bool, tokens: int, outputs: int) -> list[Step]:
        """one_each: every sequence has one token.

        tokens: how many rows a matrix product takes at a time, 0 for tiles of many; outputs: likewise behind `SelectOutputs`.
        """
        allocation = kernels.Allocation(self.arenas[one_each], self._vectors, self.host_rows)
        schedule = self.schedules[one_each]
        return [self._step(fusion, allocation, outputs if fusion.ops[0].out.per_output else tokens) for fusion in schedule]

    def _lay_out(self, plan: p.Plan, conversions: ConvertsWeights) -> None:
        """Schedules depend on the matrices' formats: launches take those of one kind."""
        self.plan = replace(plan, ops=tuple(_without_numbers(op, conversions) for op in plan.ops))
        self.schedules = {one_each: fusions(self.plan, one_each, self._split) for one_each in (True, False)}
        self.arenas = {one_each: Arena.of(self.plan, schedule) for one_each, schedule in self.schedules.items()}
        self.host_rows = host_row_offsets(self.plan)

    def _upload(self, plan: p.Plan, conversions: ConvertsWeights) -> bool:
        """Matrix by matrix, each when it is converted. Returns whether all became what was expected."""
        sources = {op.out.index: op.weight for op in plan.ops if isinstance(op, p.MatMul)}
        by_matrix = groupby(self._destinations(), lambda part: part.member.matmul.out.index)
        destinations = [(index, list(parts)) for index, parts in by_matrix]
        with closing(conversions.each([sources[index] for index, _ in destinations])) as arriving:
            for _, parts in destinations:
                weight = next(arriving)
                if weight.format != parts[0].member.matmul.weight.format:
                    return False
                for part in parts:
                    self._write(part, weight)
                release(weight.data)
                del weight  # before the next is waited for
        return True

    def _destinations(self) -> Iterator[Destination]:
        """Allocates. A device that has too little says so before anything is converted."""
        for fusion in chain(*self.schedules.values()):
            key = _key(fusion)
            if not fusion.members or key in self._matrices:
                continue
            offsets = list(accumulate(map(_nbytes, fusion.members), initial=0))
            self._matrices[key] = self.driver.allocate(offsets[-1], "weights")
            for member, offset in zip(fusion.members, offsets, strict=False):
                yield Destination(member, self._matrices[key], offset)

    def _write(self, destination: Destination, weight: Tensor) -> None:
        with self.driver.filling(destination.memory, destination.offset, _nbytes(destination.member)) as out:
            pack(weight, destination.member.begin, destination.member.end, out.view("<u4"))

    def _step(self, fusion: Fusion, allocation: kernels.Allocation, tokens: int) -> Step:
        match fusion.family:
            case "rows":
                return kernels.rows_step(fusion, allocation, self.driver.dialect, self.driver.limits.threads)
            case "heads":
                return kernels.heads_step(fusion, allocation, self.driver.dialect, self.driver.limits.threads)
            case "matmul":
                return kernels.matmul_step(fusion, allocation, self.driver.dialect, self._matrices[_key(fusion)], tokens)

    def _split(self, members: list[Member]) -> Iterator[list[Member]]:
        """Launches take members of one layout and kind of rows, as many as a binding and the parameters allow."""
        groups: dict[tuple[Any, bool], list[Member]] = {}
        for member in members:
            for part in _parts(member, self.driver.limits):
                groups.setdefault((layout_of(part.matmul.weight), part.matmul.out.per_output), []).append(part)
        for group in groups.values():
            taken: list[Member] = []
            for part in group:
                if not self._fits([*taken, part]):
                    yield taken
                    taken = []
                taken.append(part)
            yield taken

    def _fits(self, members: list[Member]) -> bool:
        """Whether one launch can do them."""
        limits = self.driver.limits
        groups = sum(-(-(member.end - member.begin) // kernels.ROW_GROUP) for member in members)
        return len(members) <= MAX_MEMBERS and groups <= limits.groups and sum(map(_nbytes, members)) <= limits.binding


def _parts(member: Member, limits: Limits) -> Iterator[Member]:
    """The member, or parts of its rows that a launch can do."""
    n_out, n_in = member.matmul.weight.shape
    most = limits.groups * kernels.ROW_GROUP
    if _nbytes(member) <= limits.binding and n_out <= most:
        yield member
        return
    rows = min(most, limits.binding // (_nbytes(member) // n_out + 4)) // kernels.TILE_ROWS * kernels.TILE_ROWS
    if rows < 1:
        raise BackendError(f"rows of {n_in} weights are too long for this device, which can bind {limits.binding} bytes")
    for begin in range(0, n_out, rows):
        yield Member(member.matmul, begin, min(n_out, begin + rows), member.then)


def _key(fusion: Fusion) -> Key:
    """Of the memory that holds the fusion's matrices one behind the other."""
    return tuple((member.matmul.out.index, member.begin) for member in fusion.members)


def _without_numbers(op: p.Op, conversions: ConvertsWeights) -> p.Op:
    return replace(op, weight=absent(op.weight, conversions.format(op.weight))) if isinstance(op, p.MatMul) else op


def _nbytes(member: Member) -> int:
    return 4 * layout_of(member.matmul.weight).words(member.end - member.begin, member.matmul.weight.shape[1])
