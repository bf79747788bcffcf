"""Batches are cut into pieces that cover them, and described to the device."""
import numpy as np
import pytest
from rwkv_edge_device import inputs

from rwkv_edge.backend import Batch
from rwkv_edge.plan import Buffer, Embed, Input
from rwkv_edge.weights.tensor import Tensor


def batch(lengths: list[int], outputs: list[int]) -> Batch:
    tokens = np.arange(sum(lengths), dtype=np.int32)
    return Batch(tokens, lengths, [np.zeros(1, np.float32) for _ in lengths], np.array(outputs, np.int32))


@pytest.mark.parametrize("most_rows", [1, 3, 4, 100])
@pytest.mark.parametrize("most_segments", [1, 2, 9])
def test_pieces_cover_a_batch(most_rows: int, most_segments: int) -> None:
    lengths = [1, 7, 2, 2, 1]
    whole = batch(lengths, [0, 7, 7, 12])
    rows: list[tuple[int, int]] = []
    outputs: list[int] = []
    at = 0
    for piece in inputs.pieces(whole, most_rows, most_segments):
        assert piece.begin == at
        at = piece.end
        assert 0 < piece.end - piece.begin <= most_rows
        assert len(piece.segments) <= most_segments
        assert piece.segments[0][1] == 0
        assert piece.segments[-1][2] == piece.end - piece.begin
        for segment, first, end in piece.segments:
            rows += [(segment, piece.begin + row) for row in range(first, end)]
        assert (piece.outputs + piece.begin).tolist() == whole.outputs[piece.wanted].tolist()
        outputs += (piece.outputs + piece.begin).tolist()
    assert rows == [(i, row) for i, (a, b) in enumerate([(0, 1), (1, 8), (8, 10), (10, 12), (12, 13)]) for row in range(a, b)]
    assert outputs == whole.outputs.tolist()


def test_words() -> None:
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    embed = Embed(Buffer(0, 2), Tensor("emb", (10, 2), "f32", table))
    given = Input(Buffer(1, 1), 0)
    rows_given = [np.array([[0.5], [0.25], [-1]], np.float32)]
    whole = Batch(np.array([4, 9, 1], np.int32), [1, 2], [], np.array([2], np.int32), rows_given)
    (piece,) = inputs.pieces(whole, 10, 10)
    words = inputs.words(piece, whole, [100, 300], [embed, given], 77)
    rows, outputs, segments, begin, owners_at, segments_at, outputs_at, embedded_at = words[: inputs.HEAD].tolist()
    assert (rows, outputs, segments, begin) == (3, 1, 2, 77)
    assert words[owners_at:segments_at].tolist() == [0, 1, 1]
    assert words[segments_at:outputs_at].tolist() == [0, 1, 100, 1, 3, 300]
    assert words[outputs_at:embedded_at].tolist() == [2]
    assert words[embedded_at:].view(np.float32).tolist() == [8, 9, 18, 19, 2, 3, 0.5, 0.25, -1]
