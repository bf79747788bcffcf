"""What products take beside their weights, made by ops of their own: activations as bytes, for weights in blocks, once for all
matrices that take the same bytes; and for products with mostly zeros, the list of keys."""
from dataclasses import dataclass, replace

from rwkv_edge import plan as p
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.sparse_op import ListKeys, SparseMatMul, list_floats
from rwkv_edge_cpu.shape.codes import CODES, activation_bytes, zero_of


@dataclass(frozen=True, slots=True, eq=False)
class Quantize:
    """out: rows of x as ir/quantized.py describes them, for weights with this code of zero and so many under one scale.

    listed: behind each row there is room for its list of keys, see ir/sparse.py, and a single row gets it.
    """

    out: p.Buffer
    x: p.Buffer
    zero: int
    group: int
    listed: bool = False


def with_bytes(plan: p.Plan, cpu: Target, sparse: frozenset[int]) -> p.Plan:
    """The plan with matrices in blocks taking bytes. sparse: positions of the products that go by key."""
    ops: list[p.Op | Quantize | ListKeys] = []
    buffers = list(plan.buffers)
    made: dict[tuple[int, int, int, bool], p.Buffer] = {}

    def buffer(width: int, per_output: bool) -> p.Buffer:
        buffers.append(p.Buffer(len(buffers), width, per_output))
        return buffers[-1]

    for i, op in enumerate(plan.ops):
        if not isinstance(op, p.MatMul):
            ops.append(op)
            continue
        x = keys = op.x
        lists = list_floats(x.width, op.weight.format) if i in sparse else 0
        if op.weight.format in CODES:
            zero, group = zero_of(cpu, op.weight.format), CODES[op.weight.format].group
            key = x.index, zero, group, i in sparse
            if key not in made:
                made[key] = buffer(activation_bytes(cpu, x.width) // 4 + lists, x.per_output)
                ops.append(Quantize(made[key], x, zero, group, i in sparse))
            x = keys = made[key]
        elif i in sparse:
            keys = buffer(lists, x.per_output)
            ops.append(ListKeys(keys, x))
        ops.append(SparseMatMul(op.out, x, op.weight, keys) if i in sparse else replace(op, x=x))
    return replace(plan, ops=tuple(ops), buffers=tuple(buffers))
