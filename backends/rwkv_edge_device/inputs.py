"""What the host tells the device about a run: one array of 32-bit words, which kernels find their way in by its head.

    head      HEAD words: rows T, outputs M, segments S, where the arena's outputs begin, where the tables below begin
    owners    [T] each row's segment
    segments  [S, 3] first row, end row, where the state begins
    outputs   [M] rows whose logits are wanted
    embedded  float32 bits, for each `Embed` and `Input` [T, width]
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.backend import Batch
from rwkv_edge.errors import InputError
from rwkv_edge.plan import Embed, Input
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge_device.driver import RunShape

HEAD = 8


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive rows of a batch, `begin` to `end`: as many as the device takes at once.

    segments: (index in the batch, first row, end row) with rows counted from `begin`.  outputs: likewise.
    wanted: which of the batch's outputs they are.
    """

    begin: int
    end: int
    segments: list[tuple[int, int, int]]
    outputs: NDArray[np.int32]
    wanted: slice

    @property
    def shape(self) -> RunShape:
        return RunShape(self.end - self.begin, len(self.outputs), len(self.segments))

    @property
    def one_each(self) -> bool:
        return len(self.segments) == self.end - self.begin


def pieces(batch: Batch, most_rows: int, most_segments: int) -> Iterator[Piece]:
    bounds = list(accumulate(batch.lengths, initial=0))
    if bounds[-1] <= most_rows and len(batch.lengths) <= most_segments:
        segments = [(i, bounds[i], bounds[i + 1]) for i in range(len(batch.lengths))]
        yield Piece(0, bounds[-1], segments, batch.outputs, slice(len(batch.outputs)))
        return
    begin = first = 0
    while begin < bounds[-1]:
        end = min(begin + most_rows, bounds[min(first + most_segments, len(batch.lengths))])
        segments = []
        while first < len(batch.lengths) and bounds[first] < end:
            segments.append((first, max(bounds[first], begin) - begin, min(bounds[first + 1], end) - begin))
            if bounds[first + 1] > end:
                break
            first += 1
        wanted = slice(*np.searchsorted(batch.outputs, (begin, end)))
        yield Piece(begin, end, segments, batch.outputs[wanted] - np.int32(begin), wanted)
        begin = end


def words(
    piece: Piece, batch: Batch, seats: Sequence[int], host_rows: Sequence[Embed | Input], outputs_begin: int
) -> NDArray[np.uint32]:
    """seats: where the states of the piece's segments begin.  host_rows: the ops whose rows come along."""
    rows, outputs, segments = piece.shape
    segments_at = HEAD + rows
    outputs_at = segments_at + 3 * segments
    # A list until it is whole: NumPy takes its time for a few numbers.
    head = [rows, outputs, segments, outputs_begin, HEAD, segments_at, outputs_at, outputs_at + outputs]
    for i, (_, first, end) in enumerate(piece.segments):
        head += [i] * (end - first)
    for (_, first, end), seat in zip(piece.segments, seats, strict=True):
        head += first, end, seat
    head += piece.outputs.tolist()
    return np.concatenate([np.array(head, np.uint32), *(_bits(op, piece, batch) for op in host_rows)])


def _bits(op: Embed | Input, piece: Piece, batch: Batch) -> NDArray[np.uint32]:
    """The op's rows, one behind the other."""
    if isinstance(op, Input):
        values = batch.inputs[op.number][piece.begin : piece.end]
    else:
        values = decode_blocks(op.weight.data[batch.tokens[piece.begin : piece.end]], op.weight.format)
    return values.reshape(-1).view(np.uint32)


def check(batch: Batch, state_size: int, n_vocab: int | None, input_widths: Sequence[int]) -> None:
    """Raises InputError for a batch that does not fit the plan: kernels do not look. n_vocab: None: it has no `Embed`."""
    n_rows = len(batch.tokens)
    if len(batch.lengths) != len(batch.states) or min(batch.lengths, default=0) < 1 or sum(batch.lengths) != n_rows:
        raise InputError(f"lengths {list(batch.lengths)} do not fit {n_rows} tokens and {len(batch.states)} states")
    for state in batch.states:
        if state.dtype != np.float32 or state.shape != (state_size,) or not state.flags.c_contiguous:
            raise InputError(f"expected a state of {state_size} float32, got {list(state.shape)} {state.dtype}")
        if not state.flags.writeable:
            raise InputError("a state is read-only")
    if len({id(state) for state in batch.states}) != len(batch.states):
        raise InputError("two segments share a state")
    # Python looks at few numbers faster than NumPy does.
    tokens = batch.tokens.tolist()
    if n_vocab is not None and (min(tokens) < 0 or max(tokens) >= n_vocab):
        raise InputError(f"token ids must be from 0 to {n_vocab - 1}")
    if [rows.shape for rows in batch.inputs] != [(n_rows, width) for width in input_widths]:
        raise InputError(f"expected inputs of {list(input_widths)} numbers a row, got {[rows.shape for rows in batch.inputs]}")
    if any(rows.dtype != np.float32 for rows in batch.inputs):
        raise InputError("inputs must be float32")
    wanted = batch.outputs.tolist()
    if wanted and (wanted[0] < 0 or wanted[-1] >= n_rows or any(a > b for a, b in pairwise(wanted))):
        raise InputError(f"outputs must be rows from 0 to {n_rows - 1} in ascending order")
