"""A compiled Plan: memory, threads, and the checks that compiled code does not make."""
import os
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.backend import Batch
from rwkv_edge.errors import BackendError, InputError
from rwkv_edge_cpu import layout, program
from rwkv_edge_cpu.interpreter import compiled_walk
from rwkv_edge_cpu.intrinsics import CLOCK_TICKS
from rwkv_edge_cpu.pace import Pace
from rwkv_edge_cpu.team import Team

CACHE_LINE = 64


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised memory that begins at a cache line."""
    raw = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + nbytes]


@dataclass(slots=True, eq=False)
class Workplace:
    """Threads and the memory through which they meet; thrown away whole when a step goes wrong, or after a fork."""

    team: Team
    control: NDArray[np.int64]
    scratch: NDArray[np.float32]
    arrived: int = 0

    @staticmethod
    def make(threads: int, n_ops: int) -> "Workplace":
        control = aligned(8 * (layout.COUNTERS + n_ops)).view(np.int64)
        control[:] = 0
        scratch = aligned(4 * layout.SCRATCH_FLOATS * threads).view(np.float32).reshape(threads, -1)
        return Workplace(Team(threads, lambda: control.__setitem__(layout.ABORT, 1)), control, scratch)


class CpuExecutable:
    """See `rwkv_edge.backend.Executable`. Runs of one executable take turns; several may run at once, on their own threads."""

    state_dtype = np.dtype(np.float32)

    def __init__(self, plan: p.Plan, threads: int) -> None:
        self._threads = threads
        self._state_size = plan.state_size
        self._program: program.Program | None = program.build(plan, threads)
        self._n_ops = len(self._program.records)
        self._n_barriers = int(self._program.records[:, layout.BARRIER].sum())
        self._walk = compiled_walk()
        self._shape: tuple[int, int, int] | None = None
        self._token_memory = self._output_memory = aligned(0)
        self._workplace: Workplace | None = None
        self._pace = Pace(threads)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._times: NDArray[np.int64] | None = None

    def keep_times(self) -> NDArray[np.int64]:
        """For bench.profile: runs write their times here from now on, see `walk`; [threads, 2 * ops + 1], in CLOCK_TICKS."""
        self._times = np.zeros((self._threads, 2 * self._n_ops + 1), np.int64)
        return self._times

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Raises InputError for a batch that does not fit the plan, BackendError when closed or when a thread fails."""
        if os.getpid() != self._pid:  # a fork: its child has none of our threads, and maybe a lock that nobody will release
            self._pid, self._lock, self._workplace = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._program is None:
                raise BackendError("this executable is closed")
            return self._run(batch, self._program)

    def close(self) -> None:
        with self._lock:
            if self._workplace is not None:
                self._workplace.team.close()
            self._program = self._workplace = None
            self._token_memory = self._output_memory = aligned(0)

    def _run(self, batch: Batch, program: program.Program) -> NDArray[np.float32]:
        tokens, starts, states, outputs = self._checked(batch, program)
        self._bind(program, (len(tokens), len(outputs), len(states)))
        result = np.empty((len(outputs) if program.logits.per_output else len(tokens), program.logits.width), np.float32)
        program.set_result(result.ctypes.data)
        frame = np.array(
            [tokens.ctypes.data, outputs.ctypes.data, states.ctypes.data, starts.ctypes.data, len(states)], np.int64
        )
        self._step(program.records, frame)
        return result

    def _step(self, records: NDArray[np.int64], frame: NDArray[np.int64]) -> None:
        place = self._workplace or Workplace.make(self._threads, len(records))
        self._workplace = None  # until all went well
        walk, workers = self._walk, self._pace.workers
        control, scratch, arrived = place.control, place.scratch, place.arrived
        control[layout.WAITED :] = 0
        times = self._times
        common = records.ctypes.data, len(records), frame.ctypes.data, control.ctypes.data

        def work(worker: int) -> None:
            if worker >= workers:
                return
            noted = 0 if times is None else times[worker].ctypes.data
            walk(*common, scratch[worker].ctypes.data, worker, workers, arrived, noted)

        begin = time.perf_counter()
        try:
            place.team.run(work, workers)
        except BaseException:
            place.team.close()
            raise
        self._pace.step_done(control[layout.WAITED] / CLOCK_TICKS, time.perf_counter() - begin)
        if workers > 1:  # one alone does not count arrivals
            place.arrived += workers * (self._n_barriers + 1)
        self._workplace = place

    def _bind(self, program: program.Program, shape: tuple[int, int, int]) -> None:
        if shape == self._shape:
            return
        self._shape = None
        n_tokens, n_outputs, n_segments = shape
        if (need := 4 * program.token_floats * n_tokens) > self._token_memory.nbytes:
            self._token_memory = aligned(need)
        if (need := 4 * program.output_floats * n_outputs) > self._output_memory.nbytes:
            self._output_memory = aligned(need)
        program.bind(n_tokens, n_outputs, n_segments, self._token_memory.ctypes.data, self._output_memory.ctypes.data)
        self._shape = shape

    def _checked(self, batch: Batch, program: program.Program) -> tuple[NDArray[Any], ...]:
        """(tokens, start of each segment and the end, address of each state, outputs), safe to read for compiled code."""
        tokens = np.ascontiguousarray(batch.tokens, np.int32)
        outputs = np.ascontiguousarray(batch.outputs, np.int32)
        starts = np.zeros(len(batch.lengths) + 1, np.int64)
        np.cumsum(batch.lengths, out=starts[1:])
        if tokens.ndim != 1 or not tokens.size:
            raise InputError("no tokens to run: expected a sequence of at least one token id")
        if min(batch.lengths, default=0) < 1 or starts[-1] != len(tokens):
            raise InputError(f"segments of {list(batch.lengths)} tokens do not make {len(tokens)}")
        if program.n_vocab is not None and (tokens.min() < 0 or tokens.max() >= program.n_vocab):
            raise InputError(f"a token id is outside the vocabulary, 0 to {program.n_vocab - 1}")
        if outputs.ndim != 1 or (outputs.size and (outputs.min() < 0 or outputs.max() >= len(tokens))):
            raise InputError(f"outputs must be rows from 0 to {len(tokens) - 1}")
        if len(batch.states) != len(batch.lengths):
            raise InputError(f"{len(batch.lengths)} segments need as many states, got {len(batch.states)}")
        return tokens, starts, np.array(self._state_addresses(batch), np.int64), outputs

    def _state_addresses(self, batch: Batch) -> list[int]:
        addresses = []
        for state in batch.states:
            flags = state.flags
            if state.dtype != np.float32 or state.shape != (self._state_size,):
                raise InputError(f"a state must be float32 [{self._state_size}], got {state.dtype} {list(state.shape)}")
            if not (flags.c_contiguous and flags.writeable and flags.aligned):
                raise InputError("a state must be contiguous, aligned and writeable")
            addresses.append(state.ctypes.data)
        ordered = sorted(addresses)
        if any(b - a < 4 * self._state_size for a, b in pairwise(ordered)):
            raise InputError("two segments share a state; each needs its own")
        return addresses
