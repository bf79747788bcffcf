"""A compiled Plan: memory, threads, and the checks that compiled code does not make."""
import ctypes
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.backend import Batch
from rwkv_edge.errors import BackendError
from rwkv_edge.machine.turns import Turns
from rwkv_edge_cpu.code.machine_code import address as code_address
from rwkv_edge_cpu.code.system import CLOCK_TICKS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.inputs import Inputs, address, input_addresses
from rwkv_edge_cpu.run.memory import aligned
from rwkv_edge_cpu.run.pace import Pace
from rwkv_edge_cpu.run.records import WALK, Records, build
from rwkv_edge_cpu.run.team import Team
from rwkv_edge_cpu.shape import layout

WALK_TYPE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 9)  # calls without holding the interpreter lock


@dataclass(slots=True, eq=False)
class Crew:
    """Threads and the memory through which they meet, for so many records at most; thrown away whole when a step goes
    wrong, or after a fork."""

    team: Team
    control: NDArray[np.int64]
    scratch: NDArray[np.float32]
    control_at: int
    scratch_at: list[int]
    n_steps: int
    arrived: int = 0

    @staticmethod
    def make(threads: int, n_steps: int) -> "Crew":
        control = aligned(8 * (layout.COUNTERS + threads * n_steps)).view(np.int64)
        control[:] = 0
        scratch = aligned(4 * layout.SCRATCH_FLOATS * threads).view(np.float32).reshape(threads, -1)
        team = Team(threads, lambda: control.__setitem__(layout.ABORT, 1))
        return Crew(team, control, scratch, address(control), [address(part) for part in scratch], n_steps)


class Workspace:
    """What executables share that never run at the same time: threads, and memory for activations. Made when first needed."""

    def __init__(self) -> None:
        self.most_steps = 0
        self.close_memory()
        self.crew: Crew | None = None

    def close_memory(self) -> None:
        self._memory = aligned(0), aligned(0)
        self.addresses = address(self._memory[0]), address(self._memory[1])

    def reserve(self, *nbytes: int) -> tuple[int, int]:
        """The addresses of so much memory for rows of tokens, and of outputs."""
        if nbytes[0] > self._memory[0].nbytes or nbytes[1] > self._memory[1].nbytes:
            tokens, outputs = (max(need, memory.nbytes) for need, memory in zip(nbytes, self._memory, strict=True))
            self.close_memory()
            self._memory = aligned(tokens), aligned(outputs)
            self.addresses = address(self._memory[0]), address(self._memory[1])
        return self.addresses

    def close(self) -> None:
        if self.crew is not None:
            self.crew.team.close()
        self.crew = None
        self.close_memory()

    def forget_crew(self) -> None:
        """In a forked child, which has none of the threads, so that nobody is told to end."""
        if self.crew is not None:
            self.crew.team.close.detach()
        self.crew = None


class CpuExecutable:
    """See `rwkv_edge.backend.Executable`. Runs of one executable take turns; several may run at once, on their own threads.

    cpu: what its code is made for.
    beside: an executable that never runs at the same time: this one uses its workspace, with as many threads.
    """

    state_dtype = np.dtype(np.float32)
    tokens_per_run = 128  # activations of more only take memory: 512 at once are not faster

    def __init__(
        self, plan: p.Plan, cpu: Target, threads: int, sparse: bool | None = None, beside: "CpuExecutable | None" = None
    ) -> None:
        self._workspace: Workspace = Workspace() if beside is None else beside._workspace
        self._threads: int = threads if beside is None else beside._threads
        self._state_size = plan.state_size
        self._records: Records | None = build(plan, cpu, self._threads, sparse)
        self._n_steps = len(self._records.fields)
        self._workspace.most_steps = max(self._workspace.most_steps, self._n_steps)
        self._n_barriers = int(self._records.fields[:, layout.BARRIER].sum())
        self._walk = WALK_TYPE(code_address(WALK, cpu))
        self._records_at = address(self._records.fields)
        self._inputs: Inputs | None = None
        self._bound: tuple[tuple[int, int, int], tuple[int, int]] | None = None
        # Of single tokens, which wait for memory, and of more, which calculate.
        self._paces = Pace(self._threads), Pace(self._threads)
        self._turns = Turns(in_child=self._workspace.forget_crew)  # a child has none of our threads
        self._times: NDArray[np.int64] | None = None

    def keep_times(self) -> NDArray[np.int64]:
        """For bench.profile: runs write their times here from now on, see `walk`; [threads, 2 * steps + 1], in CLOCK_TICKS."""
        self._times = np.zeros((self._threads, 2 * self._n_steps + 1), np.int64)
        return self._times

    def run(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Raises InputError for a batch that does not fit the plan, BackendError when closed or when a thread fails."""
        with self._turns.lock:
            if self._records is None:
                raise BackendError("this executable is closed")
            return self._run(batch, self._records)

    def close(self) -> None:
        with self._turns.lock:
            self._workspace.close()
            self._records = None

    def _run(self, batch: Batch, records: Records) -> list[NDArray[np.float32]]:
        inputs = self._inputs
        if inputs is None or not inputs.fits(batch):
            self._inputs = inputs = Inputs.make(tuple(batch.lengths), len(batch.outputs))
        inputs.fill(batch, records.n_vocab, self._state_size)
        self._bind(records, inputs.shape)
        n_rows = inputs.shape
        results = [np.empty((n_rows[1 if buffer.per_output else 0], buffer.width), np.float32) for buffer in records.results]
        records.set_callers([*map(address, results), *input_addresses(batch.inputs, records.input_widths, n_rows[0])])
        self._step(address(inputs.frame), self._paces[inputs.shape[0] > 1])
        while records.copies and records.copies[0].give_back():
            del records.copies[0]
        return results

    def _step(self, frame: int, pace: Pace) -> None:
        workspace = self._workspace
        crew = workspace.crew
        if crew is None or crew.n_steps < self._n_steps:
            if crew is not None:
                crew.team.close()
            crew = Crew.make(self._threads, workspace.most_steps)
        workspace.crew = None  # until all went well
        walk, workers = self._walk, pace.workers
        control, scratch_at, arrived = crew.control, crew.scratch_at, crew.arrived
        control[layout.WAITED :] = 0
        times = self._times
        common = self._records_at, self._n_steps, frame, crew.control_at

        def work(worker: int) -> None:
            if worker >= workers:
                return
            noted = 0 if times is None else address(times[worker])
            walk(*common, scratch_at[worker], worker, workers, arrived, noted)

        begin = time.perf_counter()
        try:
            crew.team.run(work, workers)
        except BaseException:
            crew.team.close()
            raise
        pace.step_done(control[layout.WAITED] / CLOCK_TICKS, time.perf_counter() - begin)
        if workers > 1:  # one alone does not count arrivals
            crew.arrived += workers * (self._n_barriers + 1)
        workspace.crew = crew

    def _bind(self, records: Records, shape: tuple[int, int, int]) -> None:
        n_tokens, n_outputs, n_segments = shape
        addresses = self._workspace.reserve(4 * records.token_floats * n_tokens, 4 * records.output_floats * n_outputs)
        if (shape, addresses) == self._bound:
            return
        self._bound = None
        records.bind(n_tokens, n_outputs, n_segments, *addresses)
        self._bound = shape, addresses
