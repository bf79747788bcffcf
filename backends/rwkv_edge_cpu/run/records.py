"""A Plan as records: what the compiled walk reads. Built once; `bind` fills in what depends on the run."""
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge_cpu.code.machine_code import KernelName, address, kernel_name
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.lowering import LOWERINGS, Lowered, Operand, lower
from rwkv_edge_cpu.run.schedule import in_phases, place_buffers
from rwkv_edge_cpu.run.sparse_op import Copy, sparse_products
from rwkv_edge_cpu.run.steps import Step, steps_of
from rwkv_edge_cpu.shape import layout

WALK = kernel_name("kernels.interpreter.walk")
CONSTANT, TOKEN_ROWS, OUTPUT_ROWS, CALLERS = range(4)  # where an operand lies; the caller's arrays: results, then inputs


def every_kernel() -> list[KernelName]:
    """Of all steps and formats, and those that make blocks."""
    from rwkv_edge_cpu.encode.encoder import KERNELS  # no model that runs needs it

    return list(dict.fromkeys([WALK, *(name for row in LOWERINGS.values() for name in row.kernels), *KERNELS]))


@dataclass(slots=True, eq=False)
class Records:
    """For one plan and number of threads.

    fields: int64 [steps, N_FIELDS], a record each.  one, several: kernel addresses for one row and for more.
    region, offset: where operands lie.  token_floats, output_floats: activation memory per token and per output.
    results: buffers that go to the caller.  input_widths: of the rows that come from there.
    kept: arrays whose addresses are in the records.  callers_fields: (place in the flat records, which of the caller's arrays).
    steps: what the records were made from.  copies: matrices that are still to be re-laid by key, in the order of their turns.
    """

    fields: NDArray[np.int64]
    one: NDArray[np.int64]
    several: NDArray[np.int64]
    region: NDArray[np.int8]
    offset: NDArray[np.int64]
    units: NDArray[np.int64]
    per_step: NDArray[np.bool_]
    per_segment: NDArray[np.bool_]
    per_output: NDArray[np.bool_]
    token_floats: int
    output_floats: int
    results: tuple[p.Buffer, ...]
    input_widths: tuple[int, ...]
    n_vocab: int | None
    kept: list[NDArray[Any]]
    callers_fields: list[tuple[int, int]]
    steps: list[Step]
    copies: list[Copy]

    def bind(self, n_tokens: int, n_outputs: int, n_segments: int, tokens_at: int, outputs_at: int) -> None:
        """Fill in the addresses and amounts for runs of this shape; the caller's arrays are still to be set."""
        n_rows = np.where(self.per_output, n_outputs, n_tokens)
        base = np.array([0, tokens_at, outputs_at, 0], np.int64)
        scale = np.array([1, 4 * n_tokens, 4 * n_outputs, 0], np.int64)
        self.fields[:, layout.OPERANDS] = base[self.region] + self.offset * scale[self.region]
        self.fields[:, layout.ROWS] = n_rows
        self.fields[:, layout.KERNEL] = np.where(n_rows == 1, self.one, self.several)
        count = np.where(self.per_segment, n_segments, n_rows)
        self.fields[:, layout.UNITS] = self.units * np.where(self.per_step, n_rows > 0, count)

    def set_callers(self, addresses: list[int]) -> None:
        """Where this run's results go and its inputs are."""
        flat = self.fields.reshape(-1)
        for field, number in self.callers_fields:
            flat[field] = addresses[number]


def build(plan: p.Plan, cpu: Target, threads: int, by_key: bool | None = None) -> Records:
    """Compiles the kernels that the plan needs, or loads them. Raises BackendError for ops and weights that none is for."""
    given = [op.out for op in plan.ops if isinstance(op, p.Input)]
    vocabularies = [op.weight.shape[0] for op in plan.ops if isinstance(op, p.Embed)]
    steps = steps_of(plan, cpu, sparse_products(plan, cpu, by_key))
    lowered = [lower(step, cpu, threads) for step in steps]
    order, phases = in_phases([each.work for each in lowered])
    steps, lowered = [steps[i] for i in order], [lowered[i] for i in order]
    works = [each.work for each in lowered]
    offsets, token_floats, output_floats = place_buffers(works, phases, plan.results)
    callers = {buffer.index: number for number, buffer in enumerate([*plan.results, *given])}
    kept = [array for each in lowered for array in each.kept]
    region = np.full((len(works), layout.F + 1 - layout.OUT), CONSTANT, np.int8)
    offset = np.zeros(region.shape, np.int64)

    def locate(operand: Operand) -> tuple[int, int]:
        if isinstance(operand, p.Buffer):
            if operand.index in callers:
                return CALLERS, callers[operand.index]
            return (OUTPUT_ROWS if operand.per_output else TOKEN_ROWS), offsets[operand.index]
        vector = np.ascontiguousarray(operand, np.float32).reshape(-1)
        kept.append(vector)
        return CONSTANT, vector.ctypes.data

    for i, work in enumerate(works):
        for column, operand in enumerate((work.out, *work.operands)):
            region[i, column], offset[i, column] = locate(operand)
    fields = np.zeros((len(works), layout.N_FIELDS), np.int64)
    for record, each in zip(fields, lowered, strict=True):
        _fill(record, each, cpu)
    fields[1:, layout.BARRIER] = np.diff(phases) > 0
    copies = [each.copy for each in lowered if each.copy is not None]
    for turn, copy in enumerate(copies):
        copy.ready[:] -= turn
    return Records(
        fields,
        np.array([address(each.one, cpu) for each in lowered], np.int64),
        np.array([address(each.several, cpu) for each in lowered], np.int64),
        region, offset,
        np.array([work.units for work in works], np.int64),
        np.array([work.per == "step" for work in works], np.bool_),
        np.array([work.per == "segment" for work in works], np.bool_),
        np.array([work.out.per_output for work in works], np.bool_),
        token_floats, output_floats, plan.results, tuple(buffer.width for buffer in given),
        min(vocabularies, default=None), kept,
        [(i * layout.N_FIELDS + layout.OUT + j, int(offset[i, j])) for i, j in np.argwhere(region == CALLERS).tolist()],
        steps, copies,
    )  # fmt: skip


def _fill(record: NDArray[np.int64], lowered: Lowered, cpu: Target) -> None:
    """What is the same in every run; a kernel reads the fields that it has a use for."""
    work = lowered.work
    record[layout.GRAIN] = work.grain
    record[layout.WIDTH] = work.out.width
    record[layout.SHARED] = isinstance(work.shared, np.ndarray)
    record[layout.PARAMETER] = np.float64(work.parameter).view(np.int64)
    record[layout.HEADS] = work.heads
    record[layout.SLOT] = 0 if work.slot is None else work.slot.offset
    for field, number in lowered.fields.items():
        record[field] = number
    if lowered.decode is not None:
        record[layout.DECODE] = address(lowered.decode, cpu)
