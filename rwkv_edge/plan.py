"""The contract between model versions and backends: the ops, and the list of them that makes a model.

A Plan is a flat list of ops over buffers. A backend compiles it once and runs it many times. One run takes T tokens of one
or several sequences ("segments": consecutive rows that belong to one sequence, each with its own state) and returns logits
for the rows that were asked for. Only `TokenShift` and the `Wkv*` ops look along the rows of a segment; all others treat
rows one by one, so a single token, a prompt and a batch are the same run.

Notation in the docstrings: x, y: a row of a buffer, float32; [T, n]: T rows of width n; H heads of N channels, C = H * N;
h: head; channel c = h * N + i. The NumPy backend (`rwkv_edge_numpy`) is the executable form of these definitions.

Sources: RWKV-4 arXiv:2305.13048; RWKV-5/6 "Eagle and Finch" arXiv:2404.05892; RWKV-7 "Goose" arXiv:2503.14456.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from rwkv_edge.slot import Slot
from rwkv_edge.weights.tensor import Tensor

Vector = NDArray[Any]  # [n] floats, small, already decoded


@dataclass(frozen=True, slots=True)
class Buffer:
    """The result of one op: [T, width], or [outputs, width] behind `SelectOutputs`. Written once."""

    index: int
    width: int
    per_output: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Embed:
    """y[t] = weight[token[t]]. weight [n_vocab, C]."""

    out: Buffer
    weight: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """y[t] = inputs[number][t]: rows that come from outside, where a plan is one stage of a model (see strategy/cut.py)."""

    out: Buffer
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class SelectOutputs:
    """y[m] = x[outputs[m]]: the rows whose logits the caller wants; all later buffers have that many rows."""

    out: Buffer
    x: Buffer


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the row; the variance is the mean of squared deviations."""

    out: Buffer
    x: Buffer
    weight: Vector
    bias: Vector
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class GroupNorm:
    """As LayerNorm, but mean and variance are taken over each head's N channels; weight and bias [C]."""

    out: Buffer
    x: Buffer
    weight: Vector
    bias: Vector
    n_head: int
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class L2Normalize:
    """y = x / max(sqrt(sum of x^2 over the head), eps), head by head."""

    out: Buffer
    x: Buffer
    n_head: int
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenShift:
    """y[t] = x[t-1] within a segment; the first row gets the slot [C], which then takes the segment's last x."""

    out: Buffer
    x: Buffer
    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class Lerp:
    """y = a + (b - a) * weight; weight is a vector [C] or a buffer of the rows' own weights."""

    out: Buffer
    a: Buffer
    b: Buffer
    weight: Buffer | Vector


@dataclass(frozen=True, slots=True, eq=False)
class MatMul:
    """y = weight @ x: weight [n_out, n_in] in any format, maybe strided (a transposed view of the file)."""

    out: Buffer
    x: Buffer
    weight: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """y = a + b; b is a buffer or a vector for all rows."""

    out: Buffer
    a: Buffer
    b: Buffer | Vector


@dataclass(frozen=True, slots=True, eq=False)
class Multiply:
    """y = a * b, elementwise; b is a buffer or a vector for all rows."""

    out: Buffer
    a: Buffer
    b: Buffer | Vector


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """y = x * factor."""

    out: Buffer
    x: Buffer
    factor: float


ActivationKind = Literal["sigmoid", "tanh", "silu", "relu_squared", "exp_neg_exp", "decay7"]
ACTIVATIONS: tuple[ActivationKind, ...] = get_args(ActivationKind)
DECAY7_SCALE = -0.606531  # -exp(-0.5), to the digits that the official inference code uses


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """y = f(x), elementwise.

    sigmoid 1 / (1 + exp(-x)); tanh; silu x * sigmoid(x); relu_squared max(x, 0)^2;
    exp_neg_exp exp(-exp(x)), RWKV-6's decay; decay7 exp(DECAY7_SCALE * sigmoid(x)), RWKV-7's decay.
    """

    out: Buffer
    x: Buffer
    kind: ActivationKind


@dataclass(frozen=True, slots=True, eq=False)
class Wkv4:
    """RWKV-4's weighted average, per channel, in the form that cannot overflow. slot [3, C]: a, b, p (initially 0, 0, -1e30).

    q = max(p, first + k);  y = (exp(p - q) a + exp(first + k - q) v) / (exp(p - q) b + exp(first + k - q))
    q = max(p + decay, k);  a = exp(p + decay - q) a + exp(k - q) v;  b = exp(p + decay - q) b + exp(k - q);  p = q
    decay [C] is negative: -exp(time_decay). first [C].
    """

    out: Buffer
    k: Buffer
    v: Buffer
    decay: Vector
    first: Vector
    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class Wkv6:
    """RWKV-5 and 6: a matrix state per head. slot [H, N, N]: S[key channel i, value channel j].

    y[j] = sum_i r[i] * (bonus[i] * k[i] * v[j] + S[i, j]);  S[i, j] = decay[i] * S[i, j] + k[i] * v[j]
    decay: vector [C] (5) or buffer (6), between 0 and 1. bonus [C].
    """

    out: Buffer
    r: Buffer
    k: Buffer
    v: Buffer
    decay: Buffer | Vector
    bonus: Vector
    n_head: int
    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class Wkv7:
    """RWKV-7's generalised delta rule. slot [H, N, N]: S[value channel i, key channel j].

    s[i] = sum_j S[i, j] * kk[j]
    S[i, j] = S[i, j] * decay[j] - s[i] * kk[j] * a[j] + v[i] * k[j];  y[i] = sum_j S[i, j] * r[j]
    """

    out: Buffer
    r: Buffer
    decay: Buffer
    k: Buffer
    v: Buffer
    kk: Buffer
    a: Buffer
    n_head: int
    slot: Slot


@dataclass(frozen=True, slots=True, eq=False)
class HeadBonus:
    """y = v * sum over the head of (r * k * weight), head by head; weight [C] (RWKV-7's r_k)."""

    out: Buffer
    r: Buffer
    k: Buffer
    v: Buffer
    weight: Vector
    n_head: int


Op = (
    Embed | Input | SelectOutputs | LayerNorm | GroupNorm | L2Normalize | TokenShift | Lerp | MatMul | Add | Multiply | Scale
    | Activation | Wkv4 | Wkv6 | Wkv7 | HeadBonus
)


def inputs(op: Op) -> Iterator[Buffer]:
    """The buffers an op reads."""
    for f in fields(op):
        value = getattr(op, f.name)
        if f.name != "out" and isinstance(value, Buffer):
            yield value


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A model, or some of its layers, ready for a backend.

    ops: in order of execution; every buffer is written before it is read.  slots: the state's layout.
    layer_starts: index of each layer's first op, then of the head's (final norm and matrix).
    results: what a run returns: of a model the logits [outputs, n_vocab]; of a stage, what later stages read.
    """

    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    slots: tuple[Slot, ...]
    layer_starts: tuple[int, ...]
    results: tuple[Buffer, ...]

    @property
    def logits(self) -> Buffer:
        """The only result of a model."""
        return self.results[0]

    @property
    def n_inputs(self) -> int:
        """Arrays of rows that a run needs from outside."""
        return sum(isinstance(op, Input) for op in self.ops)

    @property
    def state_size(self) -> int:
        """Numbers in one sequence's state."""
        return sum(slot.size for slot in self.slots)

    def weights(self) -> Iterator[Tensor]:
        """The matrices of all `MatMul` and `Embed` ops."""
        return (op.weight for op in self.ops if isinstance(op, MatMul | Embed))

    def with_weights(self, convert: Callable[[Tensor], Tensor]) -> "Plan":
        """The same plan with every matrix replaced by `convert(matrix)`."""
        ops = tuple(
            replace(op, weight=convert(op.weight)) if isinstance(op, MatMul | Embed) else op for op in self.ops
        )
        return replace(self, ops=ops)

    def last_uses(self) -> dict[int, int]:
        """Buffer index -> index of the last op that touches it; after that op its memory is free."""
        last = {buffer.index: len(self.ops) for buffer in self.results}
        for position, op in enumerate(self.ops):
            for buffer in (op.out, *inputs(op)):
                last[buffer.index] = max(position, last.get(buffer.index, 0))
        return last


@dataclass(slots=True, eq=False)
class PlanBuilder:
    """Collects ops. Each method appends one op and returns the buffer it writes."""

    ops: list[Op] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    layer_starts: list[int] = field(default_factory=list)

    def begin_layer(self) -> None:
        """The ops that follow belong to the next layer (behind the last layer: to the head)."""
        self.layer_starts.append(len(self.ops))

    def slot(self, name: str, *shape: int, initial: float | NDArray[Any] = 0.0) -> Slot:
        """Reserve a piece of the state."""
        offset = self.slots[-1].offset + self.slots[-1].size if self.slots else 0
        self.slots.append(Slot(name, shape, offset, initial))
        return self.slots[-1]

    def finish(self, *results: Buffer) -> Plan:
        return Plan(tuple(self.ops), tuple(self.buffers), tuple(self.slots), tuple(self.layer_starts), results)

    def _emit(self, kind: type[Any], width: int, *operands: Any, per_output: bool = False) -> Buffer:
        rows = [b.per_output for b in operands if isinstance(b, Buffer)]
        out = Buffer(len(self.buffers), width, per_output or any(rows))
        self.buffers.append(out)
        self.ops.append(kind(out, *operands))
        return out

    def embed(self, weight: Tensor) -> Buffer:
        return self._emit(Embed, weight.shape[1], weight)

    def input(self, width: int) -> Buffer:
        """The next of a run's inputs."""
        return self._emit(Input, width, sum(isinstance(op, Input) for op in self.ops))

    def select_outputs(self, x: Buffer) -> Buffer:
        return self._emit(SelectOutputs, x.width, x, per_output=True)

    def layer_norm(self, x: Buffer, weight: Vector, bias: Vector, eps: float) -> Buffer:
        return self._emit(LayerNorm, x.width, x, weight, bias, eps)

    def group_norm(self, x: Buffer, weight: Vector, bias: Vector, n_head: int, eps: float) -> Buffer:
        return self._emit(GroupNorm, x.width, x, weight, bias, n_head, eps)

    def l2_normalize(self, x: Buffer, n_head: int, eps: float) -> Buffer:
        return self._emit(L2Normalize, x.width, x, n_head, eps)

    def token_shift(self, x: Buffer, slot: Slot) -> Buffer:
        return self._emit(TokenShift, x.width, x, slot)

    def lerp(self, a: Buffer, b: Buffer, weight: Buffer | Vector) -> Buffer:
        return self._emit(Lerp, a.width, a, b, weight)

    def matmul(self, x: Buffer, weight: Tensor) -> Buffer:
        return self._emit(MatMul, weight.shape[0], x, weight)

    def add(self, a: Buffer, b: Buffer | Vector) -> Buffer:
        return self._emit(Add, a.width, a, b)

    def multiply(self, a: Buffer, b: Buffer | Vector) -> Buffer:
        return self._emit(Multiply, a.width, a, b)

    def scale(self, x: Buffer, factor: float) -> Buffer:
        return self._emit(Scale, x.width, x, factor)

    def activation(self, x: Buffer, kind: ActivationKind) -> Buffer:
        return self._emit(Activation, x.width, x, kind)

    def wkv4(self, k: Buffer, v: Buffer, decay: Vector, first: Vector, slot: Slot) -> Buffer:
        return self._emit(Wkv4, k.width, k, v, decay, first, slot)

    def wkv6(
        self, r: Buffer, k: Buffer, v: Buffer, decay: Buffer | Vector, bonus: Vector, n_head: int, slot: Slot
    ) -> Buffer:
        return self._emit(Wkv6, r.width, r, k, v, decay, bonus, n_head, slot)

    def wkv7(
        self, r: Buffer, decay: Buffer, k: Buffer, v: Buffer, kk: Buffer, a: Buffer, n_head: int, slot: Slot
    ) -> Buffer:
        return self._emit(Wkv7, r.width, r, decay, k, v, kk, a, n_head, slot)

    def head_bonus(self, r: Buffer, k: Buffer, v: Buffer, weight: Vector, n_head: int) -> Buffer:
        return self._emit(HeadBonus, r.width, r, k, v, weight, n_head)
