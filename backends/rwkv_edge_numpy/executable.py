"""Runs a Plan op by op with the functions of ops.py."""
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.backend import Batch
from rwkv_edge_numpy import ops

Array = NDArray[np.floating[Any]]
ROWS_AT_ONCE = 4 << 20  # weights decoded at a time when a matrix is not kept as floats: 16 MB of float32


class NumpyExecutable:
    """A Plan with its vectors in `dtype`; matrices stay in the file's format and are decoded a piece at a time when used."""

    def __init__(self, plan: p.Plan, dtype: type[np.floating[Any]]) -> None:
        self.dtype = dtype
        self.plan = replace(plan, ops=tuple(self._cast_vectors(op) for op in plan.ops))
        last = plan.last_uses()
        self._dead_after: list[list[int]] = [[] for _ in range(len(plan.ops) + 1)]
        for buffer, position in last.items():
            self._dead_after[position].append(buffer)

    @property
    def state_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    def close(self) -> None:
        """Nothing is held beyond memory."""

    def run(self, batch: Batch) -> list[Array]:
        values: dict[int, Array] = {}
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            for position, op in enumerate(self.plan.ops):
                values[op.out.index] = self._apply(op, values, batch)
                for dead in self._dead_after[position]:
                    del values[dead]
        return [values[buffer.index] for buffer in self.plan.results]

    def _cast_vectors(self, op: p.Op) -> p.Op:
        vectors: dict[str, Any] = {
            name: value.astype(self.dtype)
            for name in op.__dataclass_fields__
            if isinstance(value := getattr(op, name), np.ndarray)
        }
        return replace(op, **vectors) if vectors else op

    def _apply(self, op: p.Op, values: dict[int, Array], batch: Batch) -> Array:
        segments = ops.Segments(batch.lengths, batch.states)

        def of(operand: p.Buffer | p.Vector) -> Array:
            return values[operand.index] if isinstance(operand, p.Buffer) else operand

        match op:
            case p.Embed():
                return self._rows(op, batch.tokens)
            case p.Input():
                return batch.inputs[op.number]
            case p.SelectOutputs():
                return of(op.x)[batch.outputs]
            case p.LayerNorm():
                return ops.layer_norm(of(op.x), op.weight, op.bias, op.eps)
            case p.GroupNorm():
                return ops.group_norm(of(op.x), op.weight, op.bias, op.n_head, op.eps)
            case p.L2Normalize():
                return ops.l2_normalize(of(op.x), op.n_head, op.eps)
            case p.TokenShift():
                return ops.token_shift(of(op.x), segments, op.slot)
            case p.Lerp():
                return ops.lerp(of(op.a), of(op.b), of(op.weight))
            case p.MatMul():
                return self._matmul(of(op.x), op)
            case p.Add():
                return of(op.a) + of(op.b)
            case p.Multiply():
                return of(op.a) * of(op.b)
            case p.Scale():
                return of(op.x) * self.dtype(op.factor)
            case p.Activation():
                return ops.ACTIVATIONS[op.kind](of(op.x))
            case p.Wkv4():
                return ops.wkv4(of(op.k), of(op.v), op.decay, op.first, segments, op.slot)
            case p.Wkv6():
                r, k, v, decay = of(op.r), of(op.k), of(op.v), of(op.decay)
                return ops.wkv6(r, k, v, decay, op.bonus, op.n_head, segments, op.slot)
            case p.Wkv7():
                r, decay, k, v, kk, a = (of(z) for z in (op.r, op.decay, op.k, op.v, op.kk, op.a))
                return ops.wkv7(r, decay, k, v, kk, a, op.n_head, segments, op.slot)
            case p.HeadBonus():
                return ops.head_bonus(of(op.r), of(op.k), of(op.v), op.weight, op.n_head)

    def _rows(self, op: p.Embed, tokens: NDArray[np.int32]) -> Array:
        distinct, position = np.unique(tokens, return_inverse=True)
        rows = [op.weight[int(t) : int(t) + 1].decode(self.dtype) for t in distinct]
        return np.concatenate(rows)[position]

    def _matmul(self, x: Array, op: p.MatMul) -> Array:
        n_out, n_in = op.weight.shape
        y = np.empty((len(x), n_out), self.dtype)
        step = max(1, ROWS_AT_ONCE // n_in)
        for start in range(0, n_out, step):
            y[:, start : start + step] = ops.matmul(x, op.weight[start : start + step].decode(self.dtype))
        return y
