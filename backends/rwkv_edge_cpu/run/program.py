"""A Plan as records: what the compiled walk reads. Built once; `bind` fills in what depends on the run."""
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.errors import BackendError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor
from rwkv_edge_cpu.code.machine_code import KernelName, address, kernel_name
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.quantize_op import Quantize, with_bytes
from rwkv_edge_cpu.run.schedule import in_phases, place_buffers
from rwkv_edge_cpu.run.sparse_op import Copy, ListKeys, SparseMatMul, sparse_products, sparse_record
from rwkv_edge_cpu.shape import layout
from rwkv_edge_cpu.shape.codes import activation_bytes

BYTES_AT_ONCE = 32 << 10  # of weights that a thread takes at a time: a microsecond or more of work
PIECES_PER_THREAD = 4  # so that a thread which was interrupted does not keep the others waiting
HEAD_GRAIN_FLOATS = 1024

Per = Literal["op", "row", "segment"]
CONSTANT, TOKEN_ROWS, OUTPUT_ROWS, CALLERS = range(4)  # where an operand lies; the caller's arrays: results, then inputs


@dataclass(frozen=True, slots=True)
class Lowering:
    """How ops of one type become records.

    operands: attributes of the op that become A, B, ...  per, units: the op has units(op) pieces of work per row (...).
    grain: units a thread takes at a time, 0: fixed shares.
    """

    kernel: KernelName | None
    operands: tuple[str, ...]
    per: Per
    units: Callable[[Any], int]
    grain: Callable[[Any], int]


def _width(op: Any) -> int:
    return int(op.out.width)


def _heads(op: Any) -> int:
    return int(op.n_head)


def _one(op: Any) -> int:
    return 1


def _fixed(op: Any) -> int:
    return 0


def _few_heads(op: Any) -> int:
    return max(1, HEAD_GRAIN_FLOATS * int(op.n_head) // int(op.out.width))


def _runs(op: Any) -> int:
    return int(op.x.width) // 32


def _channels(op: Any) -> int:
    return 256


LOWERINGS: dict[type, Lowering] = {
    p.Embed: Lowering(kernel_name("kernels.rows.embed"), (), "row", _one, _one),
    p.SelectOutputs: Lowering(kernel_name("kernels.rows.select_outputs"), ("x",), "row", _one, _one),
    p.LayerNorm: Lowering(kernel_name("kernels.norms.normalize"), ("x", "weight", "bias"), "row", _one, _one),
    p.GroupNorm: Lowering(kernel_name("kernels.norms.normalize"), ("x", "weight", "bias"), "row", _heads, _few_heads),
    p.L2Normalize: Lowering(kernel_name("kernels.norms.l2_normalize"), ("x",), "row", _heads, _few_heads),
    p.HeadBonus: Lowering(kernel_name("kernels.norms.head_bonus"), ("r", "k", "v", "weight"), "row", _heads, _few_heads),
    p.TokenShift: Lowering(kernel_name("kernels.rows.token_shift"), ("x",), "op", _width, _channels),
    p.Lerp: Lowering(kernel_name("kernels.elementwise.lerp"), ("a", "b", "weight"), "row", _width, _fixed),
    p.Add: Lowering(kernel_name("kernels.elementwise.add"), ("a", "b"), "row", _width, _fixed),
    p.Multiply: Lowering(kernel_name("kernels.elementwise.multiply"), ("a", "b"), "row", _width, _fixed),
    p.Scale: Lowering(kernel_name("kernels.elementwise.scale"), ("x",), "row", _width, _fixed),
    p.Activation: Lowering(None, ("x",), "row", _width, _fixed),
    p.MatMul: Lowering(None, ("x",), "op", _width, _one),
    SparseMatMul: Lowering(None, ("x", "keys"), "op", _width, _one),
    Quantize: Lowering(kernel_name("kernels.quantized.quantize"), ("x",), "row", _runs, _fixed),
    ListKeys: Lowering(None, ("x",), "row", _runs, _fixed),
    p.Wkv4: Lowering(kernel_name("kernels.wkv.wkv4"), ("k", "v", "decay", "first"), "segment", _width, _channels),
    p.Wkv6: Lowering(kernel_name("kernels.wkv.wkv6"), ("r", "k", "v", "decay", "bonus"), "segment", _heads, _one),
    p.Wkv7: Lowering(kernel_name("kernels.wkv.wkv7"), ("r", "decay", "k", "v", "kk", "a"), "segment", _heads, _one),
}
MAY_BE_SHARED = {p.Lerp: "weight", p.Add: "b", p.Multiply: "b", p.Wkv6: "decay"}


WALK = kernel_name("kernels.interpreter.walk")
MATMUL = kernel_name("kernels.matmul.any_strides")  # weights of any strides
QUANTIZE_AND_LIST, LIST_FLOATS, NOTHING = map(
    kernel_name, ("kernels.sparse.quantize_and_list", "kernels.sparse.list_of_floats", "kernels.sparse.nothing")
)


def decoder_of(format: str) -> KernelName:
    return kernel_name("kernels.decode.decoder_of", format)


def matrix_kernels(format: str) -> tuple[KernelName, ...]:
    """Blocks: of one row of x, of several. Floats: of one, weights row by row or column by column; of several, row by row."""
    blocks = "kernels.quantized.row_kernel", "kernels.quantized.tile_kernel"
    floats = "kernels.matvec.row_kernel", "kernels.matvec.column_kernel", "kernels.matmul.row_kernel"
    names = floats if FORMATS[format].is_float else blocks
    return tuple(kernel_name(name, format) for name in names)


def by_key(format: str) -> tuple[KernelName, ...]:
    """The product by key, and what re-lays the matrix for it."""
    return kernel_name("kernels.sparse.sparse_kernel", format), kernel_name("kernels.sparse.relay_kernel", format)


def every_kernel() -> list[KernelName]:
    """Of all ops and formats, and those that make blocks."""
    from rwkv_edge_cpu.encode.encoder import KERNELS  # no model that runs needs it

    ops = [lowering.kernel for lowering in LOWERINGS.values() if lowering.kernel is not None]
    activations = [kernel_name("kernels.elementwise.activation", kind) for kind in p.ACTIVATIONS]
    matrices = [name for format in FORMATS for name in (decoder_of(format), *matrix_kernels(format), *by_key(format))]
    lists = [QUANTIZE_AND_LIST, LIST_FLOATS, NOTHING]
    return list(dict.fromkeys([WALK, *ops, *activations, MATMUL, *lists, *matrices, *KERNELS]))


@dataclass(slots=True, eq=False)
class Program:
    """Records for one plan and number of threads.

    records: int64 [ops, N_FIELDS].  single, many: kernel addresses for one row and for more.
    region, offset: where operands lie.  token_floats, output_floats: activation memory per token and per output.
    results: buffers that go to the caller.  input_widths: of the rows that come from there.
    kept: arrays whose addresses are in the records.  callers_fields: (place in the flat records, which of the caller's arrays).
    ops: what the records were made from.  copies: matrices that are still to be re-laid by key, in the order of their turns.
    """

    records: NDArray[np.int64]
    single: NDArray[np.int64]
    many: NDArray[np.int64]
    region: NDArray[np.int8]
    offset: NDArray[np.int64]
    units: NDArray[np.int64]
    per_op: NDArray[np.bool_]
    per_segment: NDArray[np.bool_]
    per_output: NDArray[np.bool_]
    token_floats: int
    output_floats: int
    results: tuple[p.Buffer, ...]
    input_widths: tuple[int, ...]
    n_vocab: int | None
    kept: list[NDArray[Any]]
    callers_fields: list[tuple[int, int]]
    ops: tuple[Any, ...]
    copies: list[Copy]

    def bind(self, n_tokens: int, n_outputs: int, n_segments: int, tokens_at: int, outputs_at: int) -> None:
        """Fill in the addresses and amounts for runs of this shape; the caller's arrays are still to be set."""
        n_rows = np.where(self.per_output, n_outputs, n_tokens)
        base = np.array([0, tokens_at, outputs_at, 0], np.int64)
        scale = np.array([1, 4 * n_tokens, 4 * n_outputs, 0], np.int64)
        self.records[:, layout.OPERANDS] = base[self.region] + self.offset * scale[self.region]
        self.records[:, layout.ROWS] = n_rows
        self.records[:, layout.KERNEL] = np.where(n_rows == 1, self.single, self.many)
        count = np.where(self.per_segment, n_segments, n_rows)
        self.records[:, layout.UNITS] = self.units * np.where(self.per_op, n_rows > 0, count)

    def set_callers(self, addresses: list[int]) -> None:
        """Where this run's results go and its inputs are."""
        flat = self.records.reshape(-1)
        for field, number in self.callers_fields:
            flat[field] = addresses[number]


def build(plan: p.Plan, cpu: Target, threads: int, by_key: bool | None = None) -> Program:
    """Compiles the kernels that the plan needs, or loads them. Raises BackendError for ops and weights that none is for."""
    given = [op.out for op in plan.ops if isinstance(op, p.Input)]  # where the caller's rows are read, there is nothing to do
    plan = replace(plan, ops=tuple(op for op in plan.ops if not isinstance(op, p.Input)))
    callers = {buffer.index: number for number, buffer in enumerate([*plan.results, *given])}
    for op in plan.ops:
        if type(op) not in LOWERINGS:
            raise BackendError(f"the cpu backend has no kernel for {type(op).__name__}")
        _check_widths(op, [op.out, *(getattr(op, name) for name in LOWERINGS[type(op)].operands)])
    plan, phases = in_phases(with_bytes(plan, cpu, sparse_products(plan, cpu, by_key)))
    offsets, token_floats, output_floats = place_buffers(plan, phases)
    n = len(plan.ops)
    records = np.zeros((n, layout.N_FIELDS), np.int64)
    single, many, units = (np.zeros(n, np.int64) for _ in range(3))
    region = np.full((n, layout.F + 1 - layout.OUT), CONSTANT, np.int8)
    offset = np.zeros(region.shape, np.int64)
    kept: list[NDArray[Any]] = []
    copies: list[Copy] = []

    def locate(operand: p.Buffer | NDArray[Any]) -> tuple[int, int]:
        if isinstance(operand, p.Buffer):
            if operand.index in callers:
                return CALLERS, callers[operand.index]
            return (OUTPUT_ROWS if operand.per_output else TOKEN_ROWS), offsets[operand.index]
        vector = np.ascontiguousarray(operand, np.float32).reshape(-1)
        kept.append(vector)
        return CONSTANT, vector.ctypes.data

    for i, op in enumerate(plan.ops):
        lowering = LOWERINGS[type(op)]
        operands = [op.out, *(getattr(op, name) for name in lowering.operands)]
        for column, operand in enumerate(operands):
            region[i, column], offset[i, column] = locate(operand)
        _describe(records[i], op)
        records[i, layout.BARRIER] = i > 0 and phases[i] != phases[i - 1]
        records[i, layout.GRAIN] = lowering.grain(op)
        units[i] = lowering.units(op)
        one, several = lowering.kernel, lowering.kernel
        if isinstance(op, p.Activation):
            one = several = kernel_name("kernels.elementwise.activation", op.kind)
        elif isinstance(op, p.Embed):
            _place_weight(records[i], op.weight, kept)
            records[i, layout.DECODE] = address(decoder_of(op.weight.format), cpu)
        elif isinstance(op, p.MatMul):
            _place_weight(records[i], op.weight, kept)
            one, several = _matrix_kernels(records[i], cpu, op.weight.format)
            records[i, layout.X_STRIDE] = 4 * op.x.width
            records[i, layout.GRAIN] = _rows_at_once(op.weight, threads)
            if isinstance(op, SparseMatMul):
                one = _place_copy(records[i], op.weight, one, cpu, threads, copies, kept)
        elif isinstance(op, Quantize):
            records[i, layout.X_STRIDE], records[i, layout.N_IN] = 4 * op.out.width, op.x.width
            records[i, layout.ZERO], records[i, layout.GROUP] = op.zero, op.group
            records[i, layout.LIST] = activation_bytes(cpu, op.x.width)
            one = QUANTIZE_AND_LIST if op.listed else one
        elif isinstance(op, ListKeys):
            records[i, layout.N_IN] = op.x.width
            one, several = LIST_FLOATS, NOTHING
        assert one is not None
        assert several is not None
        single[i], many[i] = address(one, cpu), address(several, cpu)
    pers = [LOWERINGS[type(op)].per for op in plan.ops]
    vocabularies = [op.weight.shape[0] for op in plan.ops if isinstance(op, p.Embed)]
    return Program(
        records, single, many, region, offset, units,
        np.array([per == "op" for per in pers]),
        np.array([per == "segment" for per in pers]),
        np.array([op.out.per_output for op in plan.ops]),
        token_floats, output_floats, plan.results, tuple(buffer.width for buffer in given),
        min(vocabularies, default=None), kept,
        [(i * layout.N_FIELDS + layout.OUT + j, int(offset[i, j])) for i, j in np.argwhere(region == CALLERS).tolist()],
        plan.ops, copies,
    )  # fmt: skip


def _describe(record: NDArray[np.int64], op: p.Op) -> None:
    """What ops of several types have in common; an op without one of these does not read it."""
    record[layout.WIDTH] = op.out.width
    record[layout.SHARED] = not isinstance(getattr(op, MAY_BE_SHARED.get(type(op), ""), op.out), p.Buffer)
    record[layout.PARAMETER] = np.float64(getattr(op, "eps", getattr(op, "factor", 0.0))).view(np.int64)
    record[layout.HEADS] = getattr(op, "n_head", 1)
    record[layout.SLOT] = op.slot.offset if isinstance(op, p.TokenShift | p.Wkv4 | p.Wkv6 | p.Wkv7) else 0


def _check_widths(op: p.Op, operands: list[p.Buffer | NDArray[Any]]) -> None:
    """Compiled code checks nothing, so a plan whose sizes do not fit must stop here."""
    width = op.weight.shape[1] if isinstance(op, p.MatMul) else op.out.width
    for operand in operands[1:]:
        size = operand.width if isinstance(operand, p.Buffer) else operand.size
        if size != width:
            raise BackendError(f"{type(op).__name__}: an operand has {size} numbers a row where {width} are expected")
    n_head = getattr(op, "n_head", 1)
    if op.out.width % n_head or (isinstance(op, p.Wkv7) and op.out.width // n_head > layout.SCRATCH_FLOATS):
        raise BackendError(f"{type(op).__name__}: {op.out.width} channels cannot be {n_head} heads")
    expected = {p.TokenShift: width, p.Wkv4: 3 * width, p.Wkv6: width * width // n_head, p.Wkv7: width * width // n_head}
    slot = getattr(op, "slot", None)
    if slot is not None and slot.size != expected[type(op)]:
        raise BackendError(f"{type(op).__name__}: slot {slot.name} has {slot.size} numbers, not {expected[type(op)]}")


def _place_weight(record: NDArray[np.int64], weight: Tensor, kept: list[NDArray[Any]]) -> None:
    """Address and strides of a matrix."""
    if weight.format not in FORMATS:
        raise BackendError(f"{weight.name}: the cpu backend has no kernel for {weight.format}; decode it first")
    block = FORMATS[weight.format]
    data = weight.data
    if block.is_float:
        fits = data.dtype == FLOAT_STORAGE[weight.format] and data.shape == weight.shape
    else:
        expected = (weight.shape[0], block.row_bytes(weight.shape[1]))
        fits = data.dtype == np.uint8 and data.shape == expected and weight.shape[1] % block.block_size == 0
        fits = fits and data.strides[1] == 1
    if len(weight.shape) != 2 or not fits:
        raise BackendError(f"{weight.name}: {weight.format} data of {data.dtype} {data.shape} is no matrix {weight.shape}")
    kept.append(data)
    record[layout.WEIGHT] = data.__array_interface__["data"][0]
    # The stride of an axis of length 1 may be anything; make it what fast kernels expect.
    record[layout.STRIDE_OUT] = data.strides[0] if data.shape[0] > 1 else data.itemsize
    record[layout.STRIDE_IN] = block.block_bytes if not block.is_float or data.shape[1] == 1 else data.strides[1]
    record[layout.BLOCK] = block.block_size
    record[layout.N_IN] = weight.shape[1]


def _matrix_kernels(record: NDArray[np.int64], cpu: Target, format: str) -> tuple[KernelName, KernelName]:
    """For a single row of x, and for more."""
    block, kernels = FORMATS[format], matrix_kernels(format)
    if not block.is_float:
        return kernels[0], kernels[1]
    record[layout.DECODE] = address(decoder_of(format), cpu)
    if record[layout.STRIDE_IN] == block.block_bytes:
        return kernels[0], kernels[2]
    if record[layout.STRIDE_OUT] == block.block_bytes:
        return kernels[1], MATMUL
    return MATMUL, MATMUL


def _place_copy(
    record: NDArray[np.int64],
    weight: Tensor,
    dense: KernelName,
    cpu: Target,
    threads: int,
    copies: list[Copy],
    kept: list[NDArray[Any]],
) -> KernelName:
    """What the product by key needs beside the matrix; returns its kernel for a single row of x."""
    parts, copy = sparse_record(weight, dense, cpu, threads, len(copies), kept)
    copies.append(copy)
    record[layout.SPARSE], record[layout.GRAIN] = parts.ctypes.data, parts[layout.TILE]
    record[layout.LIST] = 0 if FORMATS[weight.format].is_float else activation_bytes(cpu, weight.shape[1])
    return by_key(weight.format)[0]


def _rows_at_once(weight: Tensor, threads: int) -> int:
    """A multiple of what a tile holds; also of 16, so that threads do not write to the same cache line."""
    n_out = weight.shape[0]
    enough = BYTES_AT_ONCE * n_out // max(1, weight.nbytes)
    fair = n_out // (threads * PIECES_PER_THREAD)
    tile = layout.PLAIN_TILE_ROWS if FORMATS[weight.format].is_float else layout.BYTE_TILE_ROWS
    return max(1, min(enough, fair) // tile) * tile
