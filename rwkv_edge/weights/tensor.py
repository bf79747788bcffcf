"""A named weight as it lies in its file, and the set of them that makes a model."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.formats import FORMATS

RESCALED = re.compile(r"blocks\.(\d+)\.(?:att\.output|ffn\.value)\.weight")
FLOAT_STORAGE: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view into a model file; nothing is copied until `decode`.

    name: our name (see weights/names).  shape: logical shape, matrices as [out, in].
    format: a key of `quant.formats.FORMATS`.
    data: plain floats: dtype float32, float16 or uint16 (bf16 bits), of `shape`, any strides;
          block formats: uint8 of shape [*shape[:-1], bytes per row], last axis contiguous.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    data: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    def transpose(self) -> "Tensor":
        """Last two axes exchanged, still a view. Plain floats only: a block lies along one axis."""
        if not FORMATS[self.format].is_float:
            raise ValueError(f"{self.name}: {self.format} blocks cannot be transposed")
        return replace(self, data=self.data.swapaxes(-1, -2), shape=(*self.shape[:-2], self.shape[-1], self.shape[-2]))

    def reshape(self, *shape: int) -> "Tensor":
        """Same weights, another shape, as a view; for block formats the last axis must stay."""
        if not FORMATS[self.format].is_float:
            if shape[-1] != self.shape[-1]:
                raise ValueError(f"{self.name}: {self.format} rows of {self.shape[-1]} cannot become {shape}")
            return replace(self, shape=shape, data=self.data.reshape(*shape[:-1], self.data.shape[-1]))
        return replace(self, shape=shape, data=self.data.reshape(shape))

    def __getitem__(self, index: int | slice) -> "Tensor":
        """Part along the first axis, as a view."""
        data = self.data[index]
        leading = data.shape[: len(self.shape) - (1 if isinstance(index, int) else 0) - 1]
        return replace(self, data=data, shape=(*leading, self.shape[-1]))

    def renamed(self, name: str) -> "Tensor":
        return replace(self, name=name)

    def decode(self, dtype: Any = np.float32) -> NDArray[Any]:
        """The weights as floats of `shape` (a copy, except for float32 asked of float32)."""
        return decode_blocks(self.data, self.format, dtype)


def empty(shape: tuple[int, ...], format: str) -> NDArray[Any]:
    """`Tensor.data` for this shape and format."""
    return np.empty(*_stored_as(shape, format))


def absent(tensor: Tensor, format: str) -> Tensor:
    """What tells of a matrix that is elsewhere: it has the memory of one row, and its numbers are NaN."""
    shape, dtype = _stored_as(tensor.shape, format)
    row = np.full(shape[-1] * dtype.itemsize, 255, np.uint8).view(dtype)
    return replace(tensor, format=format, data=np.broadcast_to(row, shape))


def _stored_as(shape: tuple[int, ...], format: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Of `Tensor.data`."""
    if FORMATS[format].is_float:
        return shape, FLOAT_STORAGE[format]
    return (*shape[:-1], FORMATS[format].row_bytes(shape[-1])), np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Hints:
    """What a file's metadata says that its tensors cannot.

    rescale_every_n_layers: the att.output and ffn.value matrices of layer i are stored divided by
    2 ** (i // n), and the stream must be halved after every n layers (llama.cpp's v6 files); 0: stored as they are.
    """

    head_size: int | None = None
    layer_norm_eps: float = 1e-5
    rescale_every_n_layers: int = 0
    vocabulary: Sequence[str] | None = None

    def divisor(self, name: str) -> float:
        """What the file's numbers of this matrix have been divided by: a power of two."""
        match, every = RESCALED.fullmatch(name), self.rescale_every_n_layers
        return float(2 ** (int(match[1]) // every)) if match and every else 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a model under our names (BlinkDL's names, matrices as [out, in], vectors flat).

    source: "pth", "safetensors", "gguf" or "rwkv.cpp".  metadata: the file's own, for `info`.
    adapter: names the LoRA that was merged into the tensors (see convert/lora.py); "": none.
    """

    path: Path
    source: str
    tensors: Mapping[str, Tensor]
    hints: Hints = field(default_factory=Hints)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    adapter: str = ""

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def without_file(self) -> "Weights":
        """What is left where nothing may refer to the file's mapping any more."""
        return replace(self, tensors={}, hints=Hints(), metadata={})
