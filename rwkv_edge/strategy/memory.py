"""How much memory a model needs in each weight format, before any of it is allocated."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from rwkv_edge.backend import TOKENS_PER_RUN
from rwkv_edge.convert.conversions import wanted_format
from rwkv_edge.plan import Embed, MatMul, Plan
from rwkv_edge.quant.formats import FORMATS


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """How a layer's matrices are to be: format: None: as stored.  streamed: as stored, and not kept in memory."""

    format: str | None = None
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes. weights: matrices and vectors.  state: of one sequence.  activations: of the longest piece of a prompt."""

    weights: int
    state: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.state + self.activations


class Sizes:
    """Of one plan whose weights are as stored."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._layers: dict[str | None, list[int]] = {}

    def need(self, layers: Sequence[LayerWeights]) -> Need:
        """What stays in memory, and of what is streamed the two largest neighbours: one in use, one on its way. The rows of an
        embedding that stays as stored are read when they are used."""
        sizes = [self.layers(layer.format)[i] * (not layer.streamed) for i, layer in enumerate(layers)]
        streamed = [self.layers(None)[i] * layer.streamed for i, layer in enumerate(layers)]
        if any(streamed):  # then the embedding stays as stored, see compiling.py
            more = max(a + b for a, b in pairwise([*streamed, streamed[0]]))
        else:
            more = self.embedding(layers[0].format)
        return Need(sum(sizes) + more + self.vectors, 4 * self.plan.state_size, self.activations)

    def of_format(self, format: str | None) -> Need:
        """All layers in this format."""
        return self.need([LayerWeights(format)] * len(self.layers(None)))

    def layers(self, format: str | None) -> list[int]:
        """Bytes of each layer's matrices, the embedding aside, and of the head's."""
        if format not in self._layers:
            bounds = [*(self.plan.layer_starts or (0,)), len(self.plan.ops)]
            self._layers[format] = [
                sum(_nbytes(op, format) for op in self.plan.ops[begin:end] if isinstance(op, MatMul))
                for begin, end in pairwise(bounds)
            ]
        return self._layers[format]

    def embedding(self, format: str | None, whole: bool = False) -> int:
        """Bytes of the embedding where it is converted; whole: also where it stays as stored."""
        embeds = [op for op in self.plan.ops if isinstance(op, Embed)]
        return sum(_nbytes(op, format) for op in embeds if whole or _becomes(op, format) != op.weight.format)

    def file(self, format: str | None) -> int:
        """Bytes of a file of all weights in this format, headers aside."""
        return sum(self.layers(format)) + self.embedding(format, whole=True) + self.vectors

    @cached_property
    def vectors(self) -> int:
        """Bytes of all vectors, as float32."""
        arrays = (getattr(op, name) for op in self.plan.ops for name in op.__dataclass_fields__)
        return sum({id(a): 4 * a.size for a in arrays if isinstance(a, np.ndarray)}.values())

    @cached_property
    def activations(self) -> int:
        """Bytes, about: of all buffers that are in use at the same time, for as many rows as one run takes."""
        last, alive, most = self.plan.last_uses(), 0, 0
        dying: dict[int, int] = {}
        for position, op in enumerate(self.plan.ops):
            if not op.out.per_output:
                alive += op.out.width
                dying[last[op.out.index]] = dying.get(last[op.out.index], 0) + op.out.width
            most = max(most, alive)
            alive -= dying.pop(position, 0)
        return 4 * (most * TOKENS_PER_RUN + self.plan.logits.width)


def _becomes(op: MatMul | Embed, format: str | None) -> str:
    return op.weight.format if format is None else wanted_format(op.weight, format)


def _nbytes(op: MatMul | Embed, format: str | None) -> int:
    becomes = _becomes(op, format)
    return op.weight.nbytes if becomes == op.weight.format else FORMATS[becomes].nbytes(op.weight.shape)


def readable(nbytes: int) -> str:
    """ "1.53 GB", "820 MB"."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"
