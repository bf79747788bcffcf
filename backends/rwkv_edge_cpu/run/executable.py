"""A compiled Plan: memory, threads, and the checks that compiled code does not make."""
import ctypes
import os
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.backend import Batch
from rwkv_edge.errors import BackendError
from rwkv_edge_cpu.code.machine_code import address as code_address
from rwkv_edge_cpu.code.system import CLOCK_TICKS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run import program
from rwkv_edge_cpu.run.inputs import Inputs, address, input_addresses
from rwkv_edge_cpu.run.memory import aligned
from rwkv_edge_cpu.run.pace import Pace
from rwkv_edge_cpu.run.team import Team
from rwkv_edge_cpu.shape import layout

WALK = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 9)  # calls without holding the interpreter lock


@dataclass(slots=True, eq=False)
class Workplace:
    """Threads and the memory through which they meet, for steps of at most so many ops; thrown away whole when a step goes
    wrong, or after a fork."""

    team: Team
    control: NDArray[np.int64]
    scratch: NDArray[np.float32]
    control_at: int
    scratch_at: list[int]
    n_ops: int
    arrived: int = 0

    @staticmethod
    def make(threads: int, n_ops: int) -> "Workplace":
        control = aligned(8 * (layout.COUNTERS + threads * n_ops)).view(np.int64)
        control[:] = 0
        scratch = aligned(4 * layout.SCRATCH_FLOATS * threads).view(np.float32).reshape(threads, -1)
        team = Team(threads, lambda: control.__setitem__(layout.ABORT, 1))
        return Workplace(team, control, scratch, address(control), [address(part) for part in scratch], n_ops)


class Room:
    """Where executables work that never run at the same time: threads, and memory for activations. Made when first needed."""

    def __init__(self) -> None:
        self.most_ops = 0
        self.close_memory()
        self.workplace: Workplace | None = None

    def close_memory(self) -> None:
        self._memory = aligned(0), aligned(0)
        self.places = address(self._memory[0]), address(self._memory[1])

    def reserve(self, *nbytes: int) -> tuple[int, int]:
        """The addresses of so much memory for rows of tokens, and of outputs."""
        if nbytes[0] > self._memory[0].nbytes or nbytes[1] > self._memory[1].nbytes:
            tokens, outputs = (max(need, memory.nbytes) for need, memory in zip(nbytes, self._memory, strict=True))
            self.close_memory()
            self._memory = aligned(tokens), aligned(outputs)
            self.places = address(self._memory[0]), address(self._memory[1])
        return self.places

    def close(self) -> None:
        if self.workplace is not None:
            self.workplace.team.close()
        self.workplace = None
        self.close_memory()


class CpuExecutable:
    """See `rwkv_edge.backend.Executable`. Runs of one executable take turns; several may run at once, on their own threads.

    cpu: what its code is made for.
    beside: an executable that never runs at the same time: this one works in its room, with as many threads.
    """

    state_dtype = np.dtype(np.float32)
    tokens_per_run = 128  # activations of more only take memory: 512 at once are not faster

    def __init__(
        self, plan: p.Plan, cpu: Target, threads: int, sparse: bool | None = None, beside: "CpuExecutable | None" = None
    ) -> None:
        self._room = Room() if beside is None else beside._room
        self._threads = threads if beside is None else beside._threads
        self._state_size = plan.state_size
        self._program: program.Program | None = program.build(plan, cpu, self._threads, sparse)
        self._n_ops = len(self._program.records)
        self._room.most_ops = max(self._room.most_ops, self._n_ops)
        self._n_barriers = int(self._program.records[:, layout.BARRIER].sum())
        self._walk = WALK(code_address(program.WALK, cpu))
        self._records_at = address(self._program.records)
        self._inputs: Inputs | None = None
        self._bound: tuple[tuple[int, int, int], tuple[int, int]] | None = None
        # Of single tokens, which wait for memory, and of more, which calculate.
        self._paces = Pace(self._threads), Pace(self._threads)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._times: NDArray[np.int64] | None = None

    def keep_times(self) -> NDArray[np.int64]:
        """For bench.profile: runs write their times here from now on, see `walk`; [threads, 2 * ops + 1], in CLOCK_TICKS."""
        self._times = np.zeros((self._threads, 2 * self._n_ops + 1), np.int64)
        return self._times

    def run(self, batch: Batch) -> NDArray[np.float32]:
        return self.run_all(batch)[0]

    def run_all(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Raises InputError for a batch that does not fit the plan, BackendError when closed or when a thread fails."""
        if os.getpid() != self._pid:  # a fork: its child has none of our threads, and maybe a lock that nobody will release
            self._pid, self._lock, self._room.workplace = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._program is None:
                raise BackendError("this executable is closed")
            return self._run(batch, self._program)

    def close(self) -> None:
        with self._lock:
            self._room.close()
            self._program = None

    def _run(self, batch: Batch, program: program.Program) -> list[NDArray[np.float32]]:
        inputs = self._inputs
        if inputs is None or not inputs.fits(batch):
            self._inputs = inputs = Inputs.make(tuple(batch.lengths), len(batch.outputs))
        inputs.fill(batch, program.n_vocab, self._state_size)
        self._bind(program, inputs.shape)
        n_rows = inputs.shape
        results = [np.empty((n_rows[1 if buffer.per_output else 0], buffer.width), np.float32) for buffer in program.results]
        program.set_callers([*map(address, results), *input_addresses(batch.inputs, program.input_widths, n_rows[0])])
        self._step(address(inputs.frame), self._paces[inputs.shape[0] > 1])
        while program.copies and program.copies[0].give_back():
            del program.copies[0]
        return results

    def _step(self, frame: int, pace: Pace) -> None:
        room = self._room
        place = room.workplace
        if place is None or place.n_ops < self._n_ops:
            if place is not None:
                place.team.close()
            place = Workplace.make(self._threads, room.most_ops)
        room.workplace = None  # until all went well
        walk, workers = self._walk, pace.workers
        control, scratch_at, arrived = place.control, place.scratch_at, place.arrived
        control[layout.WAITED :] = 0
        times = self._times
        common = self._records_at, self._n_ops, frame, place.control_at

        def work(worker: int) -> None:
            if worker >= workers:
                return
            noted = 0 if times is None else address(times[worker])
            walk(*common, scratch_at[worker], worker, workers, arrived, noted)

        begin = time.perf_counter()
        try:
            place.team.run(work, workers)
        except BaseException:
            place.team.close()
            raise
        pace.step_done(control[layout.WAITED] / CLOCK_TICKS, time.perf_counter() - begin)
        if workers > 1:  # one alone does not count arrivals
            place.arrived += workers * (self._n_barriers + 1)
        room.workplace = place

    def _bind(self, program: program.Program, shape: tuple[int, int, int]) -> None:
        n_tokens, n_outputs, n_segments = shape
        places = self._room.reserve(4 * program.token_floats * n_tokens, 4 * program.output_floats * n_outputs)
        if (shape, places) == self._bound:
            return
        self._bound = None
        program.bind(n_tokens, n_outputs, n_segments, *places)
        self._bound = shape, places
