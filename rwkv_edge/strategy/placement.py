"""Which part of a strategy runs which layer. The rules are those of the `rwkv` package.

There are n_layer + 1 places: the layers (the embedding belongs to the first) and the head. Parts with a number take so many
of what is left; those without share the remainder evenly, or get nothing where one part takes it with "+"; what is then
still left goes to the last part.
"""
from collections.abc import Sequence
from dataclasses import dataclass

from rwkv_edge.strategy.grammar import Part


@dataclass(frozen=True, slots=True)
class Placement:
    """part: index of the strategy's part that has this layer.  streamed: its weights are read from the file at every step."""

    part: int
    streamed: bool = False


def placements(parts: Sequence[Part], n_places: int) -> list[Placement]:
    """One for each layer and the head, in their order."""
    resident = [0] * len(parts)
    left = n_places
    for i, part in enumerate(parts):
        resident[i] = min(part.layers or 0, left)
        left -= resident[i]
    streaming = next((i for i, part in enumerate(parts) if part.streams), None)
    sharing = [i for i, part in enumerate(parts) if part.layers is None]
    streamed = [0] * len(parts)
    if streaming is not None:
        streamed[streaming] = left
    else:
        for taken, i in enumerate(sharing):
            resident[i] = left // (len(sharing) - taken)
            left -= resident[i]
        resident[-1] += left
    return [
        Placement(i, at >= resident[i])
        for i in range(len(parts))
        for at in range(resident[i] + streamed[i])
    ]
