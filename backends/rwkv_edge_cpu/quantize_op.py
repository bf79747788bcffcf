"""Activations as bytes, for weights in blocks: made by an op of its own, once for all matrices that take the same bytes."""
from dataclasses import dataclass, replace

from rwkv_edge import plan as p
from rwkv_edge_cpu.codes import CODES, activation_bytes, zero_of


@dataclass(frozen=True, slots=True, eq=False)
class Quantize:
    """out: rows of x as quantized_ir.py describes them, for weights with this code of zero and so many under one scale."""

    out: p.Buffer
    x: p.Buffer
    zero: int
    group: int


def with_bytes(plan: p.Plan) -> p.Plan:
    """The plan with matrices in blocks taking bytes."""
    ops: list[p.Op | Quantize] = []
    buffers = list(plan.buffers)
    made: dict[tuple[int, int, int], p.Buffer] = {}
    for op in plan.ops:
        if isinstance(op, p.MatMul) and op.weight.format in CODES:
            zero, group = zero_of(op.weight.format), CODES[op.weight.format].group
            key = op.x.index, zero, group
            if key not in made:
                made[key] = p.Buffer(len(buffers), activation_bytes(op.x.width) // 4, op.x.per_output)
                buffers.append(made[key])
                ops.append(Quantize(made[key], op.x, zero, group))
            op = replace(op, x=made[key])
        ops.append(op)
    return replace(plan, ops=tuple(ops), buffers=tuple(buffers))
