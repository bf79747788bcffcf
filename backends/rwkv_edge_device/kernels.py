"""A fusion as kernel source: the order of function calls. The functions are in the backend's kernel files.

Names in a body: `b7` is the number this thread has of the fusion's buffer 7, `at7` where the thread's row of it begins in the
arena, `word(i)` parameter i of the launch. Buffers are counted in order of use, so that layers of one shape share a kernel
and differ only in their words.
"""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.errors import BackendError
from rwkv_edge_device.allocation import Arena, Vectors
from rwkv_edge_device.driver import Dialect, Grid, Kernel, RunShape, Step
from rwkv_edge_device.fusion import WITH_STATE, Fusion, Member
from rwkv_edge_device.packing import UNIT, layout_of

LANES = 256  # threads for a row, where a workgroup can have so many
CHANNELS = 64  # of a workgroup where there are no heads
PARTS = 4  # threads that share a row of a head's state
ROW_GROUP = 4  # matrix rows of a workgroup that multiplies few tokens
DOT_TOKENS = (1, 2, 4, 8)  # tokens it can take at a time; more go to tiles
TILE_ROWS, TILE_TOKENS = 64, 32
LINE = 4  # words: matrices begin at 16-byte lines


@dataclass(frozen=True, slots=True)
class Allocation:
    """arena, vectors: see allocation.py.  host_rows: buffer index -> offset among the inputs, per token."""

    arena: Arena
    vectors: Vectors
    host_rows: dict[int, int]


@dataclass(slots=True, eq=False)
class Writer:
    """Lines of a body, and the words they use."""

    dialect: Dialect
    allocation: Allocation
    words: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    computed: set[int] = field(default_factory=set)
    _numbers: dict[int, int] = field(default_factory=dict)

    def number(self, buffer: p.Buffer) -> int:
        return self._numbers.setdefault(buffer.index, len(self._numbers))

    def word(self, value: int) -> str:
        """An expression for a number that differs between layers."""
        self.words.append(value)
        return f"word({len(self.words) - 1}u)"

    def let(self, name: str, value: str) -> None:
        self.lines.append(self.dialect.let.format(name=name, value=value))

    def let_index(self, name: str, value: str) -> None:
        self.lines.append(self.dialect.let_index.format(name=name, value=value))

    def rows_of(self, buffers: Iterable[p.Buffer], row: str) -> None:
        """Where the row begins in each buffer."""
        for buffer in buffers:
            base = self.word(self.allocation.arena.offset(buffer))
            rows_at = "output_rows" if buffer.per_output else "token_rows"
            self.let_index(f"at{self.number(buffer)}", f"{rows_at}({base}) + {row} * {buffer.width}u")

    def operand(self, x: p.Buffer | NDArray[Any]) -> str:
        """This thread's number of a buffer or of a vector for all rows."""
        if isinstance(x, np.ndarray):
            return f"vectors[{self.word(self.allocation.vectors.offset(x))} + c]"
        n = self.number(x)
        return f"b{n}" if x.index in self.computed else f"arena[at{n} + c]"

    def result(self, op: p.Op, value: str) -> None:
        self.let(f"b{self.number(op.out)}", value)
        self.computed.add(op.out.index)

    def store(self, buffer: p.Buffer) -> None:
        n = self.number(buffer)
        self.lines.append(f"arena[at{n} + c] = b{n};")

    def finish(self, *lines: str) -> str:
        return "\n".join([*self.lines, *lines])


def elementwise(op: p.Op, of: Callable[[Any], str]) -> str:
    """The expression of an op that needs one element of each operand."""
    match op:
        case p.Lerp():
            return f"lerp({of(op.a)}, {of(op.b)}, {of(op.weight)})"
        case p.Add():
            return f"{of(op.a)} + {of(op.b)}"
        case p.Multiply():
            return f"{of(op.a)} * {of(op.b)}"
        case p.Scale():
            return f"{of(op.x)} * {literal(op.factor)}"
        case p.Activation():
            return f"{op.kind}_of({of(op.x)})"
    raise TypeError(f"{type(op).__name__} is not elementwise")


def literal(value: float) -> str:
    return f"({float(np.float32(value))!r}f)"


def constants(**values: int) -> tuple[tuple[str, int], ...]:
    return tuple(values.items())


def outside(fusion: Fusion) -> list[p.Buffer]:
    """The buffers from other fusions, in order of first use."""
    wanted = fusion.reads()
    return list({b.index: b for op in fusion.ops for b in p.inputs(op) if b.index in wanted}.values())


# ---- rows: one workgroup a row


def rows_step(fusion: Fusion, allocation: Allocation, dialect: Dialect, threads: int) -> Step:
    """threads: of a workgroup, at most."""
    w = Writer(dialect, allocation)
    first = fusion.ops[0].out
    gathered = {op.x.index for op in fusion.ops if isinstance(op, p.SelectOutputs)}
    w.rows_of([b for b in outside(fusion) if b.index not in gathered], "row")
    w.rows_of([b for b in outside(fusion) if b.index in gathered], "output_row(row)")
    w.rows_of([op.out for op in fusion.ops if op.out.index in allocation.arena.kept], "row")
    for ops in _loops(fusion.ops):
        _rows_loop(w, ops)
    sizes = constants(WIDTH=first.width, LANES=min(LANES, threads))

    def grid(shape: RunShape) -> Grid:
        return (shape.outputs if first.per_output else shape.rows, 1, 1)

    return Step(Kernel(("rows",), sizes, w.finish()), tuple(w.words), None, grid, "rows")


def _loops(ops: Sequence[p.Op]) -> list[list[p.Op]]:
    """A layer norm looks at whole rows, so it begins a loop of its own over the channels."""
    loops: list[list[p.Op]] = []
    for op in ops:
        if not loops or isinstance(op, p.LayerNorm):
            loops.append([])
        loops[-1].append(op)
    return loops


def _rows_loop(w: Writer, ops: list[p.Op]) -> None:
    if isinstance(norm := ops[0], p.LayerNorm):
        i, x = w.number(norm.out), w.number(norm.x)
        w.let(f"mean{i}", f"row_mean(at{x}, lane)")
        w.let(f"inverse{i}", f"1.0f / sqrt(row_variance(at{x}, mean{i}, lane) + {literal(norm.eps)})")
    w.lines.append(w.dialect.each_channel)
    for op in ops:
        w.result(op, _rows_value(w, op))
        if op.out.index in w.allocation.arena.kept:
            w.store(op.out)
    w.lines.append("}")
    w.computed.clear()


def _rows_value(w: Writer, op: p.Op) -> str:
    of = w.operand
    match op:
        case p.Embed() | p.Input():
            return f"embedded({w.word(w.allocation.host_rows[op.out.index])}, row, c)"
        case p.SelectOutputs():
            return of(op.x)
        case p.LayerNorm():
            i = w.number(op.out)
            return f"({of(op.x)} - mean{i}) * inverse{i} * {of(op.weight)} + {of(op.bias)}"
        case p.TokenShift() if op.x.index in w.computed:
            return f"exchange({w.word(op.slot.offset)}, row, c, {of(op.x)})"
        case p.TokenShift():
            return f"token_shift(at{w.number(op.x)}, {w.word(op.slot.offset)}, row, c)"
    return elementwise(op, of)


# ---- heads: one workgroup a head (or some channels) of a sequence


def heads_step(fusion: Fusion, allocation: Allocation, dialect: Dialect, threads: int) -> Step:
    """threads: of a workgroup, at most. Raises BackendError for a head that needs more."""
    w = Writer(dialect, allocation)
    out = fusion.ops[0].out
    n_head = next((op.n_head for op in fusion.ops if hasattr(op, "n_head")), None)
    size = CHANNELS if n_head is None else out.width // n_head
    possible = (PARTS, 2, 1) if n_head else (1,)
    parts = next((n for n in possible if size % n == 0 and size * n <= threads), 0)
    if not parts:
        raise BackendError(f"heads of {size} channels are too large for this device, whose workgroups have {threads} threads")
    state = next((op for op in fusion.ops if isinstance(op, WITH_STATE)), None)
    name = type(state).__name__.lower() if state else "stateless"
    w.word(state.slot.offset if state else 0)  # the kernel file's own: word(0)
    w.rows_of(outside(fusion), "row")
    w.rows_of([op.out for op in fusion.ops if op.out.index in allocation.arena.kept], "row")
    for op in fusion.ops:
        w.result(op, _heads_value(w, op))
        if op.out.index in allocation.arena.kept:
            w.lines.append("if (stores) {")
            w.store(op.out)
            w.lines.append("}")
    groups = -(-out.width // size)
    sizes = constants(WIDTH=out.width, SIZE=size, PARTS=parts, PART=size // parts)

    def grid(shape: RunShape) -> Grid:
        rows = shape.outputs if out.per_output else shape.rows
        return (groups, shape.segments if state else rows, 1)

    return Step(Kernel((name, "heads"), sizes, w.finish()), tuple(w.words), None, grid, name if state else "heads")


def _heads_value(w: Writer, op: p.Op) -> str:
    of = w.operand
    match op:
        case p.GroupNorm():
            return f"group_norm({of(op.x)}, {of(op.weight)}, {of(op.bias)}, {literal(op.eps)}, lane)"
        case p.L2Normalize():
            return f"l2_normalize({of(op.x)}, {literal(op.eps)}, lane)"
        case p.HeadBonus():
            return f"head_sum({of(op.r)} * {of(op.k)} * {of(op.weight)}, lane) * {of(op.v)}"
        case p.Wkv4():
            return f"wkv4({of(op.k)}, {of(op.v)}, {of(op.decay)}, {of(op.first)})"
        case p.Wkv6():
            return f"wkv6({', '.join(map(of, (op.r, op.k, op.v, op.decay, op.bonus)))}, lane)"
        case p.Wkv7():
            return f"wkv7({', '.join(map(of, (op.r, op.decay, op.k, op.v, op.kk, op.a)))}, lane)"
    return elementwise(op, of)


# ---- matmul: one workgroup some rows of a matrix


def matmul_step(fusion: Fusion, allocation: Allocation, dialect: Dialect, weights: Any, tokens: int) -> Step:
    """tokens: how many a workgroup takes; 0: the kernel of tiles, for many."""
    layout = layout_of(fusion.members[0].matmul.weight)
    group = ROW_GROUP if tokens else TILE_ROWS
    w = Writer(dialect, allocation)
    choose: list[str] = []
    finish: list[str] = []
    groups = units = 0
    for i, member in enumerate(fusion.members):
        n_out, n_in = member.end - member.begin, member.matmul.weight.shape[1]
        first, groups = groups, groups - (-n_out // group)
        rows_at = "output_rows" if member.matmul.x.per_output else "token_rows"
        x, matrix = f"{rows_at}({w.word(allocation.arena.offset(member.matmul.x))})", w.word(units)
        units += layout.words(n_out, n_in) // LINE
        numbers = f"{i}u, (group - {first}u) * {group}u, {n_out}u, {n_in}u, {x}, {matrix}"
        choose.append(dialect.choose.format(end=groups, numbers=numbers))
        finish += [dialect.case.format(case=i), *_after(w, member), dialect.end_case]
    per_output = fusion.ops[0].out.per_output
    whole = all(member.matmul.weight.shape[1] % UNIT == 0 for member in fusion.members)
    sizes = constants(ROWS=group, TOKENS=tokens or TILE_TOKENS, PER_OUTPUT=int(per_output), WHOLE=int(whole))
    if layout.code_bits < 16:
        sizes += constants(CODE_BITS=layout.code_bits, RUN=layout.run, BLOCK=layout.block or 1)
        sizes += constants(OFFSET=int(layout.offset), ZERO=layout.zero)
    files = ("matmul", layout.name, "dot" if tokens else "tiles")
    kernel = Kernel(files, sizes, "\n".join(finish), "\n".join(choose))

    def grid(shape: RunShape) -> Grid:
        return (groups, -(-(shape.outputs if per_output else shape.rows) // (tokens or TILE_TOKENS)), 1)

    return Step(kernel, tuple(w.words), weights, grid, f"matmul {layout.name}")


def _after(w: Writer, member: Member) -> list[str]:
    """What is done with a product, `y`, of matrix row `row` and token `t`: the lines of one case."""
    w.lines, w.computed = [], set()
    own = {op.out.index for op in member.ops}
    needed = {b.index: b for op in member.then for b in p.inputs(op) if b.index not in own}
    kept = [op.out for op in member.ops if op.out.index in w.allocation.arena.kept]
    w.let_index("c", f"row + {w.word(member.begin)}")
    w.rows_of([*needed.values(), *kept], "t")
    w.result(member.matmul, "y")
    for op in member.then:
        w.result(op, elementwise(op, w.operand))
    for buffer in kept:
        w.store(buffer)
    return w.lines
