"""A Plan as device memory and steps, for each way in which it may be run."""
from collections.abc import Iterator
from typing import Any

from rwkv_edge import plan as p
from rwkv_edge.device import kernels
from rwkv_edge.device.driver import Driver, Limits, Step
from rwkv_edge.device.packing import layout_of, pack
from rwkv_edge.device.places import Arena, Vectors, host_row_places
from rwkv_edge.device.stages import MAX_MEMBERS, Member, Stage, stages
from rwkv_edge.errors import BackendError


class Program:
    """What is on the device whatever the run: vectors and matrices. Steps are made when a run first needs them.

    Raises BackendError where the device has too little memory, or a matrix has rows that are too long for it.
    """

    def __init__(self, plan: p.Plan, driver: Driver) -> None:
        self.plan, self.driver = plan, driver
        self.host_rows = host_row_places(plan)
        self._vectors = Vectors(plan)
        self.schedules = {one_each: stages(plan, one_each, self._split) for one_each in (True, False)}
        self.arenas = {one_each: Arena.of(plan, schedule) for one_each, schedule in self.schedules.items()}
        self._matrices: dict[tuple[tuple[int, int], ...], Any] = {}
        self.matrix_bytes = 0
        self.vectors = driver.allocate(self._vectors.data.nbytes, "vectors")
        driver.write(self.vectors, 0, self._vectors.data)
        for stage in self.schedules[True]:
            if stage.members:
                self._weights(stage)

    def steps(self, one_each: bool, tokens: int, outputs: int) -> list[Step]:
        """one_each: every sequence has one token.

        tokens: how many rows a matrix product takes at a time, 0 for tiles of many; outputs: likewise behind `SelectOutputs`.
        """
        places = kernels.Places(self.arenas[one_each], self._vectors, self.host_rows)
        schedule = self.schedules[one_each]
        return [self._step(stage, places, outputs if stage.ops[0].out.per_output else tokens) for stage in schedule]

    def close(self) -> None:
        for memory in (self.vectors, *self._matrices.values()):
            self.driver.free(memory)
        self._matrices.clear()

    def _step(self, stage: Stage, places: kernels.Places, tokens: int) -> Step:
        match stage.family:
            case "rows":
                return kernels.rows_step(stage, places, self.driver.dialect, self.driver.limits.threads)
            case "heads":
                return kernels.heads_step(stage, places, self.driver.dialect, self.driver.limits.threads)
            case "matmul":
                return kernels.matmul_step(stage, places, self.driver.dialect, self._weights(stage), tokens)

    def _weights(self, stage: Stage) -> Any:
        """The memory that holds the stage's matrices one behind the other."""
        key = tuple((member.matmul.out.index, member.begin) for member in stage.members)
        if key not in self._matrices:
            memory = self.driver.allocate(sum(_nbytes(member) for member in stage.members), "weights")
            at = 0
            for member in stage.members:
                self.driver.write(memory, at, pack(member.matmul.weight, member.begin, member.end))
                at += _nbytes(member)
            self._matrices[key] = memory
            self.matrix_bytes += at
        return self._matrices[key]

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


def _nbytes(member: Member) -> int:
    return 4 * layout_of(member.matmul.weight).words(member.end - member.begin, member.matmul.weight.shape[1])
