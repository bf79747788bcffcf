"""A Plan's ops fused. A fusion is some of them as one kernel launch; what only its own ops read never reaches memory.

Families of fusions, and what one workgroup of each does:
    rows    one row: norms over it, token shift, elementwise ops
    heads   one head (or 64 channels) of one sequence, token after token: WKV, head norms, elementwise ops
    matmul  some rows of several matrices that can run at once, each followed by elementwise ops on its result
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rwkv_edge import plan as p
from rwkv_edge.errors import BackendError

Family = Literal["rows", "heads", "matmul"]
ELEMENTWISE = (p.Lerp, p.Add, p.Multiply, p.Scale, p.Activation)
ROW_OPS = (p.Embed, p.Input, p.SelectOutputs, p.LayerNorm, p.TokenShift)
HEAD_OPS = (p.GroupNorm, p.L2Normalize, p.HeadBonus, p.Wkv4, p.Wkv6, p.Wkv7)
OPS = (p.MatMul, *ELEMENTWISE, *ROW_OPS, *HEAD_OPS)  # all that there are kernels for
WITH_STATE = (p.Wkv4, p.Wkv6, p.Wkv7)
MAX_MEMBERS = 8  # matrices of a matmul fusion, and thereby the length of its parameters


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Rows `begin` to `end` of a matrix product, and the elementwise ops that follow it on the same element."""

    matmul: p.MatMul
    begin: int
    end: int
    then: tuple[p.Op, ...]

    @property
    def ops(self) -> tuple[p.Op, ...]:
        return (self.matmul, *self.then)


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """ops in order of execution; members: of a matmul fusion, whose `ops` are all of theirs."""

    family: Family
    ops: tuple[p.Op, ...]
    members: tuple[Member, ...] = ()

    def reads(self) -> set[int]:
        """Indices of the buffers that come from other fusions."""
        own = {op.out.index for op in self.ops}
        return {buffer.index for op in self.ops for buffer in p.inputs(op)} - own


Split = Callable[[list[Member]], Iterator[list[Member]]]


class _Scheduler:
    """ops_left: not yet in a fusion, in the plan's order.  done: buffers of finished fusions.  readers: of each buffer."""

    def __init__(self, plan: p.Plan, one_each: bool, split: Split) -> None:
        self.one_each, self.split = one_each, split
        self.ops_left = list(plan.ops)
        self.done: set[int] = set()
        self.kept = {buffer.index for buffer in plan.results}
        self.readers: dict[int, list[p.Op]] = {}
        for op in plan.ops:
            for buffer in p.inputs(op):
                self.readers.setdefault(buffer.index, []).append(op)

    def run(self) -> Iterator[Fusion]:
        while self.ops_left:
            matmuls = [op for op in self.ops_left if isinstance(op, p.MatMul) and op.x.index in self.done]
            taken = list(self._matmul_fusions(matmuls)) if matmuls else [self._other_fusion()]
            for fusion in taken:
                self.done |= {op.out.index for op in fusion.ops}
            finished = {id(op) for fusion in taken for op in fusion.ops}
            self.ops_left = [op for op in self.ops_left if id(op) not in finished]
            yield from taken

    def _matmul_fusions(self, matmuls: list[p.MatMul]) -> Iterator[Fusion]:
        members = [Member(op, 0, op.weight.shape[0], tuple(self._followers(op))) for op in matmuls]
        for group in self.split(members):
            ops = {id(op): op for member in group for op in member.ops}
            yield Fusion("matmul", tuple(ops.values()), tuple(group))

    def _followers(self, op: p.Op) -> Iterator[p.Op]:
        """The chain of elementwise ops in which each is the only reader of the one before and needs nothing else new."""
        while op.out.index not in self.kept:
            readers = self.readers.get(op.out.index, [])
            if len(readers) != 1 or not isinstance(readers[0], ELEMENTWISE):
                return
            operands = [buffer.index for buffer in p.inputs(readers[0])]
            if operands.count(op.out.index) != 1 or not self.done.issuperset(set(operands) - {op.out.index}):
                return
            op = readers[0]
            yield op

    def _other_fusion(self) -> Fusion:
        taken: list[p.Op] = []
        inside: set[int] = set()
        for op in self.ops_left:
            operands = {buffer.index for buffer in p.inputs(op)}
            if not isinstance(op, p.MatMul) and operands <= self.done | inside and self._joins(op, taken, inside):
                taken.append(op)
                inside.add(op.out.index)
        return Fusion(_family(taken) or "rows", tuple(taken))

    def _joins(self, op: p.Op, taken: list[p.Op], inside: set[int]) -> bool:
        """Whether `op` can be in one fusion with `taken`, whose results are `inside`."""
        if not taken:
            return True
        if (op.out.width, op.out.per_output) != (taken[0].out.width, taken[0].out.per_output):
            return False
        if isinstance(op, ROW_OPS) and _family(taken) == "heads":
            return False
        # The row before is another workgroup's, unless it is always the state's.
        if isinstance(op, p.TokenShift) and op.x.index in inside and not self.one_each:
            return False
        if isinstance(op, HEAD_OPS):
            same = all(_heads(op) == _heads(other) for other in taken if isinstance(other, HEAD_OPS))
            several = isinstance(op, WITH_STATE) and any(isinstance(other, WITH_STATE) for other in taken)
            return same and not several and _family(taken) != "rows"
        return True


def _heads(op: p.Op) -> int | None:
    return getattr(op, "n_head", None)


def _family(ops: list[p.Op]) -> Family | None:
    """None: elementwise ops alone can be in any."""
    if any(isinstance(op, HEAD_OPS) for op in ops):
        return "heads"
    return "rows" if any(isinstance(op, ROW_OPS) for op in ops) else None


def refuse_unknown(plan: p.Plan) -> None:
    """Raises BackendError for an op of no family."""
    for op in plan.ops:
        if not isinstance(op, OPS):
            raise BackendError(f"backends with devices have no kernel for {type(op).__name__}")


def fusions(plan: p.Plan, one_each: bool, split: Split) -> list[Fusion]:
    """one_each: for runs in which every sequence has one token, so that token shift never looks at another row.

    split: parts matmuls that could run at once into those that one launch can do (and too large ones into parts).
    """
    return list(_Scheduler(plan, one_each, split).run())
