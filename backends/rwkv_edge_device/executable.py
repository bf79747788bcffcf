"""A compiled Plan on a device: a run is cut into pieces that fit it; each is one submission."""
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from operator import is_not
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.backend import AsStored, Batch, ConvertsWeights
from rwkv_edge.errors import BackendError
from rwkv_edge_device import inputs
from rwkv_edge_device.device_plan import DevicePlan
from rwkv_edge_device.driver import Driver, Grid, RunShape, Step
from rwkv_edge_device.fusion import refuse_unknown
from rwkv_edge_device.kernels import DOT_TOKENS
from rwkv_edge_device.states import Seats

MOST_ROWS = 512
Variant = tuple[bool, int, int]  # one token each; tokens at a time in matrix products, and in those of outputs


@dataclass(frozen=True, slots=True, eq=False)
class RunLayout:
    """Of runs of one shape. arena: bytes.  outputs_begin: of the rows with outputs there, in numbers.

    results: bytes before each.  grids: of each step.
    """

    variant: Variant
    arena: int
    outputs_begin: int
    results: list[int]
    grids: list[Grid]


class DeviceExecutable:
    """See `rwkv_edge.backend.HoldsStates`, `SharesWeights`. Owns its driver and closes it, also where the device cannot take
    the plan; one that is `beside` another uses that one's."""

    state_dtype = np.dtype(np.float32)

    def __init__(
        self,
        plan: p.Plan,
        driver: Driver,
        conversions: ConvertsWeights | None = None,
        beside: "DeviceExecutable | None" = None,
    ) -> None:
        self.driver, self._beside = driver, beside
        self._others: list[DeviceExecutable] = []  # that are beside this one
        self._host_rows = [op for op in plan.ops if isinstance(op, p.Embed | p.Input)]
        self._n_vocab = min((op.weight.shape[0] for op in self._host_rows if isinstance(op, p.Embed)), default=None)
        self._input_widths = [op.out.width for op in self._host_rows if isinstance(op, p.Input)]
        try:
            refuse_unknown(plan)
            self._device_plan: DevicePlan = (
                beside._device_plan.part(plan) if beside else DevicePlan(plan, driver, conversions or AsStored())
            )
            self._seats = Seats(driver, plan.state_size)
        except BaseException:
            if beside is None:
                driver.close()
            raise
        self.plan = self._device_plan.plan
        self._arena, self._inputs = GrowableMemory(driver, "activations"), GrowableMemory(driver, "inputs")
        self._state_size = plan.state_size
        self._most_rows = self._rows_that_fit()
        self._layouts: dict[tuple[bool, RunShape], RunLayout] = {}
        self._steps: dict[Variant, list[Step]] = {}
        self._recordings: dict[Variant, Any] = {}
        self._recorded_with: tuple[Any, ...] = (None,) * 4
        self._lock: threading.RLock = beside._lock if beside else threading.RLock()
        self._pid = os.getpid()
        self._closed = False

    @property
    def matrix_bytes(self) -> int:
        """On the device, all of which a token reads."""
        return self._device_plan.matrix_bytes

    @property
    def launches(self) -> int:
        """Of kernels for one token."""
        return len(self._device_plan.schedules[True])

    def run(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Raises InputError for a batch that does not fit the plan, BackendError when closed or when the device fails."""
        self._check_process()
        with self._lock:
            if self._closed:
                raise BackendError("this executable is closed")
            inputs.check(batch, self._state_size, self._n_vocab, self._input_widths)
            buffers = self.plan.results
            results = [np.empty((len(batch.outputs if b.per_output else batch.tokens), b.width), np.float32) for b in buffers]
            for piece in inputs.pieces(batch, self._most_rows, self._seats.most):
                part = {True: piece.wanted, False: slice(piece.begin, piece.end)}
                self._run(piece, batch, [rows[part[b.per_output]] for rows, b in zip(results, buffers, strict=True)])
            return results

    def beside(self, plan: p.Plan) -> "DeviceExecutable":
        """See `SharesWeights`."""
        with self._lock:
            self._others.append(DeviceExecutable(plan, self.driver, beside=self))
            return self._others[-1]

    def prepare(self) -> None:
        """Compile what single tokens need: a device that refuses does so now. Raises BackendError, and is closed then."""
        arena = self._device_plan.arenas[True]
        try:
            self._arena.reserve(4 * arena.floats(1, 1))
            self._inputs.reserve(4 * (inputs.HEAD + sum(op.out.width for op in self._host_rows)))
            self._recording((True, 1, 1))
        except BaseException:
            self.close()
            raise

    def fetch(self, state: NDArray[np.float32], release: bool = True) -> None:
        """See `HoldsStates`."""
        self._check_process()
        with self._lock:
            if self._closed and self._seats.holds(state):
                raise BackendError(f"the state was lost with {self.driver.name}")
            self._seats.fetch(state, release)

    def close(self) -> None:
        """The states that are still on the device come back first. What is beside this one is closed, too."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for other in self._others:
                other.close()
            with suppress(BackendError):  # of a device that is lost: who asks for a state will be told
                self._seats.fetch_all()
            self._recordings.clear()
            if self._beside is None:
                self.driver.close()
                return
            with suppress(BackendError):
                for memory in (self._arena.memory, self._inputs.memory, self._seats.memory):
                    if memory is not None:
                        self.driver.free(memory)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise BackendError(f"{self.driver.name} cannot be used in a forked process: open the model in the child")

    def _rows_that_fit(self) -> int:
        """Rows that fit the arena even if the logits of all are wanted."""
        per_row = max(4 * arena.floats(1, 1) for arena in self._device_plan.arenas.values())
        return max(1, min(MOST_ROWS, self.driver.limits.binding // max(1, per_row)))

    def _run(self, piece: inputs.Piece, batch: Batch, out: list[NDArray[np.float32]]) -> None:
        layout = self._layout(piece.one_each, piece.shape)
        self._arena.reserve(layout.arena)
        seats = self._seats.take([batch.states[i] for i, _, _ in piece.segments])
        words = inputs.words(piece, batch, seats, self._host_rows, layout.outputs_begin)
        self._inputs.reserve(words.nbytes)
        self.driver.write(self._inputs.memory, 0, words)
        self.driver.launch(self._recording(layout.variant), layout.grids, self._arena.memory, layout.results[0], out[0])
        for begin, rows in zip(layout.results[1:], out[1:], strict=True):
            if rows.size:
                self.driver.read(self._arena.memory, begin, rows)

    def _layout(self, one_each: bool, shape: RunShape) -> RunLayout:
        if (layout := self._layouts.get((one_each, shape))) is not None:
            return layout
        variant = one_each, tokens_at_once(shape.rows), tokens_at_once(shape.outputs)
        arena = self._device_plan.arenas[one_each]
        begin = arena.tokens.size * shape.rows
        results = [
            4 * (begin + arena.offset(buffer) * shape.outputs if buffer.per_output else arena.offset(buffer) * shape.rows)
            for buffer in self.plan.results
        ]
        grids = [step.grid(shape) for step in self._steps_of(variant)]
        if len(self._layouts) > 256:
            self._layouts.clear()
        layout = RunLayout(variant, 4 * arena.floats(shape.rows, shape.outputs), begin, results, grids)
        self._layouts[one_each, shape] = layout
        return layout

    def _steps_of(self, variant: Variant) -> list[Step]:
        if variant not in self._steps:
            self._steps[variant] = self._device_plan.steps(*variant)
        return self._steps[variant]

    def _recording(self, variant: Variant) -> Any:
        memories = self._arena.memory, self._device_plan.vectors, self._seats.memory, self._inputs.memory
        if any(map(is_not, memories, self._recorded_with)):
            self._recordings.clear()
            self._recorded_with = memories
        if variant not in self._recordings:
            self._recordings[variant] = self.driver.record(self._steps_of(variant), *memories)
        return self._recordings[variant]


def tokens_at_once(rows: int) -> int:
    """What the matrix kernels are made for: a few tokens, or (0) tiles of many."""
    return next((n for n in DOT_TOKENS if rows <= n), 0)


class GrowableMemory:
    """Device memory that is replaced by a larger one when it gets too small."""

    def __init__(self, driver: Driver, what: str) -> None:
        self.driver, self.what = driver, what
        self.nbytes = 0
        self.memory: Any = None

    def reserve(self, nbytes: int) -> None:
        if self.memory is not None and nbytes <= self.nbytes:
            return
        if self.memory is not None:
            self.driver.free(self.memory)
            self.memory = None
        doubled = 1 << max(16, (max(1, nbytes) - 1).bit_length())
        self.nbytes = max(nbytes, min(doubled, self.driver.limits.binding))
        self.memory = self.driver.allocate(self.nbytes, self.what)
