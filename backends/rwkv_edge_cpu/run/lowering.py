"""How steps become records: a row for each type of step, which holds all that this backend knows of it beside its kernel."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.errors import BackendError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.slot import Slot
from rwkv_edge_cpu.code.machine_code import KernelName, kernel_name
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.matrices import (
    ANY_STRIDES,
    by_key,
    decoder_of,
    fitting_kernels,
    matrix_fields,
    product_kernels,
    rows_at_once,
)  # fmt: skip
from rwkv_edge_cpu.run.sparse_op import Copy, sparse_record
from rwkv_edge_cpu.run.steps import ListKeys, Product, Quantize, Step
from rwkv_edge_cpu.shape import layout
from rwkv_edge_cpu.shape.codes import RUN, activation_bytes

FIXED = 0  # grain: every thread has a fixed share
CHANNELS = 256
HEAD_GRAIN_FLOATS = 1024

Operand = p.Buffer | p.Vector


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a step makes of what, and how threads share it.

    operands: A, B, ... of the record: buffers, or vectors that are the same for all rows; as wide as `out`, if `same_width`.
    units: pieces of work, of the size that the kernel counts in.  grain: how many of them a thread takes at a time, or FIXED.
    per: whether there are so many in the whole step, in each row or in each segment.
    elementwise: unit i is element i of `out` and needs only element i of the operands.
    shared: the operand that may be either a buffer or a vector.  heads: of a row.  parameter: eps or factor.
    slot: of the state, with slot_size numbers.  scratch: floats that a thread needs.
    """

    out: p.Buffer
    operands: tuple[Operand, ...]
    units: int
    grain: int
    per: Literal["step", "row", "segment"] = "row"
    same_width: bool = True
    elementwise: bool = False
    shared: Operand | None = None
    heads: int = 1
    parameter: float = 0.0
    slot: Slot | None = None
    slot_size: int = 0
    scratch: int = 0

    @property
    def reads(self) -> list[p.Buffer]:
        return [operand for operand in self.operands if isinstance(operand, p.Buffer)]


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """one, several: the kernels for one row of the result, and for more.  fields: of the record, beside those of the work.
    decode: of the matrix.  kept: arrays whose addresses are in the fields.  copy: of the matrix, that is still to be made."""

    work: Work
    one: KernelName
    several: KernelName
    fields: Mapping[int, int] = field(default_factory=dict)
    decode: KernelName | None = None
    kept: Sequence[NDArray[Any]] = ()
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Lowering:
    """kernels: all that steps of the type may need.  lower: of a step, for a target and so many threads."""

    kernels: tuple[KernelName, ...]
    lower: Callable[[Step, Target, int], Lowered]


S = TypeVar("S", bound=Step)


def _row(kind: type[S], kernels: Sequence[KernelName], lower: Callable[[S, Target, int], Lowered]) -> tuple[type, Lowering]:
    def checked(step: Step, cpu: Target, threads: int) -> Lowered:
        assert isinstance(step, kind)
        lowered = lower(step, cpu, threads)
        _check(kind.__name__, lowered.work)
        return lowered

    return kind, Lowering(tuple(kernels), checked)


def _op(kind: type[S], kernel: str, work: Callable[[S], Work]) -> tuple[type, Lowering]:
    """With one kernel."""
    name = kernel_name(f"kernels.{kernel}")
    return _row(kind, [name], lambda op, cpu, threads: Lowered(work(op), name, name))


def _check(name: str, work: Work) -> None:
    """Compiled code checks nothing, so a plan whose sizes do not fit must stop here."""
    width = work.out.width
    for operand in work.operands if work.same_width else ():
        size = operand.width if isinstance(operand, p.Buffer) else operand.size
        if size != width:
            raise BackendError(f"{name}: an operand has {size} numbers a row where {width} are expected")
    if width % work.heads or work.scratch > layout.SCRATCH_FLOATS:
        raise BackendError(f"{name}: {width} channels cannot be {work.heads} heads")
    if work.slot is not None and work.slot.size != work.slot_size:
        raise BackendError(f"{name}: slot {work.slot.name} has {work.slot.size} numbers, not {work.slot_size}")


# ---- of several types of steps


def _elementwise(out: p.Buffer, *operands: Operand, shared: Operand | None = None, parameter: float = 0.0) -> Work:
    return Work(out, operands, out.width, FIXED, elementwise=True, shared=shared, parameter=parameter)


def _by_head(out: p.Buffer, *operands: Operand, n_head: int, eps: float = 0.0) -> Work:
    few = max(1, HEAD_GRAIN_FLOATS * n_head // out.width)
    return Work(out, operands, n_head, few, heads=n_head, parameter=eps)


def _recurrence(op: p.Wkv6 | p.Wkv7, *operands: Operand, shared: Operand | None = None, scratch: int = 0) -> Work:
    """With a matrix for each head."""
    return Work(
        op.out, operands, op.n_head, 1, "segment", shared=shared, heads=op.n_head,
        slot=op.slot, slot_size=op.out.width**2 // op.n_head, scratch=scratch,
    )  # fmt: skip


# ---- of one type, where a line does not suffice

EMBED, QUANTIZE = kernel_name("kernels.rows.embed"), kernel_name("kernels.quantized.quantize")
QUANTIZE_AND_LIST = kernel_name("kernels.sparse.quantize_and_list")
LIST_FLOATS, NOTHING = kernel_name("kernels.sparse.list_of_floats"), kernel_name("kernels.sparse.nothing")
ACTIVATIONS = {kind: kernel_name("kernels.elementwise.activation", kind) for kind in p.ACTIVATIONS}
DECODERS = [decoder_of(format) for format in FORMATS]
PRODUCTS = [name for format in FORMATS for name in (*product_kernels(format), *by_key(format))]


def _embed(op: p.Embed, cpu: Target, threads: int) -> Lowered:
    work, decode = Work(op.out, (), 1, 1), decoder_of(op.weight.format)
    return Lowered(work, EMBED, EMBED, matrix_fields(op.weight), decode, [op.weight.data])


def _activation(op: p.Activation, cpu: Target, threads: int) -> Lowered:
    return Lowered(_elementwise(op.out, op.x), ACTIVATIONS[op.kind], ACTIVATIONS[op.kind])


def _quantize(step: Quantize, cpu: Target, threads: int) -> Lowered:
    n_in = step.x.width
    fields = {
        layout.X_STRIDE: 4 * step.out.width, layout.N_IN: n_in, layout.ZERO: step.zero, layout.GROUP: step.group,
        layout.LIST: activation_bytes(cpu, n_in),
    }  # fmt: skip
    work = Work(step.out, (step.x,), n_in // RUN, FIXED, same_width=False)
    return Lowered(work, QUANTIZE_AND_LIST if step.listed else QUANTIZE, QUANTIZE, fields)


def _list_keys(step: ListKeys, cpu: Target, threads: int) -> Lowered:
    work = Work(step.out, (step.x,), step.x.width // RUN, FIXED, same_width=False)
    return Lowered(work, LIST_FLOATS, NOTHING, {layout.N_IN: step.x.width})


def _product(step: Product, cpu: Target, threads: int) -> Lowered:
    weight = step.op.weight
    if step.op.x.width != weight.shape[1]:
        raise BackendError(f"MatMul: an operand has {step.op.x.width} numbers a row where {weight.shape[1]} are expected")
    fields = matrix_fields(weight)
    work = Work(step.out, (step.x,), step.out.width, rows_at_once(weight, threads), "step", same_width=False)
    decode = decoder_of(weight.format) if FORMATS[weight.format].is_float else None
    kernels = fitting_kernels(weight.format, fields)
    dense = Lowered(work, *kernels, fields | {layout.X_STRIDE: 4 * step.x.width}, decode, [weight.data])
    return dense if step.keys is None else _sparse_product(step, step.keys, dense, cpu, threads)


def _sparse_product(step: Product, keys: p.Buffer, dense: Lowered, cpu: Target, threads: int) -> Lowered:
    weight = step.op.weight
    kept = list(dense.kept)
    parts, copy = sparse_record(weight, dense.one, cpu, threads, kept)
    lists = 0 if FORMATS[weight.format].is_float else activation_bytes(cpu, weight.shape[1])
    work = replace(dense.work, operands=(step.x, keys), grain=int(parts[layout.TILE]))
    fields = {**dense.fields, layout.SPARSE: parts.ctypes.data, layout.LIST: lists}
    return replace(dense, work=work, one=by_key(weight.format)[0], fields=fields, kept=kept, copy=copy)


LOWERINGS: dict[type, Lowering] = dict(
    (
        _row(p.Embed, [EMBED, *DECODERS], _embed),
        _op(p.SelectOutputs, "rows.select_outputs", lambda op: Work(op.out, (op.x,), 1, 1)),
        _op(p.LayerNorm, "norms.normalize", lambda op: Work(op.out, (op.x, op.weight, op.bias), 1, 1, parameter=op.eps)),
        _op(p.GroupNorm, "norms.normalize",
            lambda op: _by_head(op.out, op.x, op.weight, op.bias, n_head=op.n_head, eps=op.eps)),
        _op(p.L2Normalize, "norms.l2_normalize", lambda op: _by_head(op.out, op.x, n_head=op.n_head, eps=op.eps)),
        _op(p.HeadBonus, "norms.head_bonus", lambda op: _by_head(op.out, op.r, op.k, op.v, op.weight, n_head=op.n_head)),
        _op(p.TokenShift, "rows.token_shift",
            lambda op: Work(op.out, (op.x,), op.out.width, CHANNELS, "step", slot=op.slot, slot_size=op.out.width)),
        _op(p.Lerp, "elementwise.lerp", lambda op: _elementwise(op.out, op.a, op.b, op.weight, shared=op.weight)),
        _op(p.Add, "elementwise.add", lambda op: _elementwise(op.out, op.a, op.b, shared=op.b)),
        _op(p.Multiply, "elementwise.multiply", lambda op: _elementwise(op.out, op.a, op.b, shared=op.b)),
        _op(p.Scale, "elementwise.scale", lambda op: _elementwise(op.out, op.x, parameter=op.factor)),
        _row(p.Activation, [*ACTIVATIONS.values()], _activation),
        _row(Quantize, [QUANTIZE, QUANTIZE_AND_LIST], _quantize),
        _row(ListKeys, [LIST_FLOATS, NOTHING], _list_keys),
        _row(Product, [*PRODUCTS, ANY_STRIDES, *DECODERS], _product),
        _op(p.Wkv4, "wkv.wkv4",
            lambda op: Work(op.out, (op.k, op.v, op.decay, op.first), op.out.width, CHANNELS, "segment",
                            slot=op.slot, slot_size=3 * op.out.width)),
        _op(p.Wkv6, "wkv.wkv6", lambda op: _recurrence(op, op.r, op.k, op.v, op.decay, op.bonus, shared=op.decay)),
        _op(p.Wkv7, "wkv.wkv7",
            lambda op: _recurrence(op, op.r, op.decay, op.k, op.v, op.kk, op.a, scratch=op.out.width // op.n_head)),
    )
)  # fmt: skip


def lower(step: Step, cpu: Target, threads: int) -> Lowered:
    """Raises BackendError for a step that there is no kernel for, or whose sizes do not fit."""
    if type(step) not in LOWERINGS:
        raise BackendError(f"the cpu backend has no kernel for {type(step).__name__}")
    return LOWERINGS[type(step)].lower(step, cpu, threads)
