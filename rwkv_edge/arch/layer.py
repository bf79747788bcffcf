"""Checked access to one layer's weights: every tensor is asked for with the shape it must have."""
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.arch.shape import ModelShape
from rwkv_edge.errors import ModelFileError
from rwkv_edge.plan import Buffer, PlanBuilder
from rwkv_edge.weights.tensor import Tensor, Weights

GROUP_NORM_EPS = 64e-5  # versions 5 to 7, whatever the head size
LARGEST_VECTOR = 1 << 24  # a vector is decoded to floats, so a damaged header must not make it large


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights under a prefix ("blocks.3.att."), and the builder that uses them.

    norm_eps: of the layer norms here.  used: names that were asked for so far.
    """

    p: PlanBuilder
    weights: Weights
    shape: ModelShape
    prefix: str = ""
    norm_eps: float = 1e-5
    used: set[str] = field(default_factory=set)

    def scope(self, name: str) -> "Layer":
        return replace(self, prefix=f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        return self.prefix + name in self.weights.tensors

    def tensor(self, name: str, *expected: int | None) -> Tensor:
        """The tensor `prefix + name`; `expected` is its shape, None where any size of at least 1 will do."""
        full = self.prefix + name
        self.used.add(full)
        tensor = self.weights.tensors.get(full)
        if tensor is None:
            raise ModelFileError(f"{self.weights.path}: tensor {full} is missing; RWKV-{self.shape.version} needs it")
        fits = len(tensor.shape) == len(expected) and all(
            (n >= 1 if e is None else n == e) for n, e in zip(tensor.shape, expected, strict=True)
        )
        if not fits:
            wanted = ["any" if e is None else e for e in expected]
            raise ModelFileError(
                f"{self.weights.path}: tensor {full} has shape {list(tensor.shape)}, expected [{', '.join(map(str, wanted))}]"
            )
        return tensor

    def matrix(self, name: str, n_out: int | None = None, n_in: int | None = None) -> Tensor:
        """[n_out, n_in]; n_embd by n_embd unless said otherwise."""
        return self.tensor(f"{name}.weight", n_out or self.shape.n_embd, n_in or self.shape.n_embd)

    def vector(self, name: str, *expected: int) -> NDArray[Any]:
        """A small tensor as flat floats; [n_embd] unless said otherwise."""
        tensor = self.tensor(name, *(expected or (self.shape.n_embd,)))
        if tensor.size > LARGEST_VECTOR:
            raise ModelFileError(f"{self.weights.path}: tensor {tensor.name} has {tensor.size} numbers, too many for a vector")
        return tensor.decode(np.float32).reshape(-1)

    def layer_norm(self, x: Buffer, name: str) -> Buffer:
        weight, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        return self.p.layer_norm(x, weight, bias, self.norm_eps)

    def group_norm(self, x: Buffer) -> Buffer:
        weight, bias = self.vector("ln_x.weight"), self.vector("ln_x.bias")
        return self.p.group_norm(x, weight, bias, self.shape.n_head, GROUP_NORM_EPS)

    def matmul(self, x: Buffer, name: str, n_out: int | None = None, n_in: int | None = None) -> Buffer:
        return self.p.matmul(x, self.matrix(name, n_out, n_in))

    def initial_wkv(self, keys_first: bool) -> float | NDArray[Any]:
        """The state a sequence starts with: zero, or the file's `time_state` [H, value, key] where a model was state-tuned."""
        if not self.has("time_state"):
            return 0.0
        size = self.shape.head_size
        state = self.tensor("time_state", self.shape.n_head, size, size).decode(np.float32)
        return np.ascontiguousarray(state.transpose(0, 2, 1)) if keys_first else state
