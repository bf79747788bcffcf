"""What the CPU backend runs: a plan's ops, but for products, which take x in a form of their own, and the steps that make it:
activations as bytes, for weights in blocks, once for all matrices that take the same bytes; and for products with mostly zeros,
the list of keys."""
from dataclasses import dataclass

from rwkv_edge import plan as p
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.sparse_op import list_floats
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
    listed: bool


@dataclass(frozen=True, slots=True, eq=False)
class ListKeys:
    """out: the list of x's numbers that are not zero, see ir/sparse.py."""

    out: p.Buffer
    x: p.Buffer


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """x: of the op, or the bytes that `Quantize` makes of it.  keys: which of x are not zero; None: it does not go by key."""

    op: p.MatMul
    x: p.Buffer
    keys: p.Buffer | None

    @property
    def out(self) -> p.Buffer:
        return self.op.out


Step = p.Op | Quantize | ListKeys | Product


def steps_of(plan: p.Plan, cpu: Target, sparse: frozenset[int]) -> list[Step]:
    """sparse: positions of the products that go by key. An `Input` is no step: its rows are read where the caller has them."""
    steps: list[Step] = []
    buffers = list(plan.buffers)
    made: dict[tuple[int, int, int, bool], p.Buffer] = {}

    def buffer(width: int, per_output: bool) -> p.Buffer:
        buffers.append(p.Buffer(len(buffers), width, per_output))
        return buffers[-1]

    for i, op in enumerate(plan.ops):
        if not isinstance(op, p.MatMul):
            steps += [] if isinstance(op, p.Input) else [op]
            continue
        x = keys = op.x
        lists = list_floats(x.width, op.weight.format) if i in sparse else 0
        if op.weight.format in CODES:
            zero, group = zero_of(cpu, op.weight.format), CODES[op.weight.format].group
            key = x.index, zero, group, i in sparse
            if key not in made:
                made[key] = buffer(activation_bytes(cpu, x.width) // 4 + lists, x.per_output)
                steps.append(Quantize(made[key], x, zero, group, i in sparse))
            x = keys = made[key]
        elif i in sparse:
            keys = buffer(lists, x.per_output)
            steps.append(ListKeys(keys, x))
        steps.append(Product(op, x, keys if i in sparse else None))
    return steps
