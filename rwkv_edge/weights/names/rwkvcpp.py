"""rwkv.cpp's tensors to ours (its python/convert_pytorch_to_ggml.py).

The names are BlinkDL's. What the converter changed: version 7's six token-shift vectors are one tensor; decays (and
version 5's bonus) of versions 4 and 5 are stored as the exponentials that the model uses; low-rank maps are transposed;
vectors carry axes of size 1.
"""
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Tensor, Weights

FUSED = "att.x_rwkvag"
_BLOCK = re.compile(r"(blocks\.\d{1,6}\.)(.*)", re.DOTALL)
LARGEST_VECTOR = 1 << 24

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Inverse:
    """How to get back what was exponentiated. raw: float64 to float64.  domain: what the stored numbers must be."""

    raw: Callable[[Array], Array]
    domain: Callable[[Array], Array]
    expected: str


DECAY_4 = Inverse(lambda w: np.log(-w), lambda w: w <= 0, "numbers up to 0")
DECAY_5 = Inverse(lambda w: np.log(-np.log(w)), lambda w: (w >= 0) & (w <= 1), "numbers from 0 to 1")
FIRST_5 = Inverse(np.log, lambda u: u >= 0, "numbers from 0")

# Version -> what is stored as an exponential.
EXPONENTIALS: dict[int, Mapping[str, Inverse]] = {
    4: {"att.time_decay": DECAY_4},
    5: {"att.time_decay": DECAY_5, "att.time_first": FIRST_5},
    6: {},
    7: {},
}

# rwkv.cpp quantizes what has two axes; these have one or three.
_PER_HEAD = re.compile(r"att\.time_(decay|first|faaaa)")


def recognise(raw: RawFile) -> bool:
    return raw.source == "rwkv.cpp"


def to_ours(raw: RawFile) -> Weights:
    """All tensors under our names and shapes: views, but for version 4's and 5's decays and bonuses.

    Raises ModelFileError.
    """
    version = _version(raw.tensors)
    tensors = [ours for theirs in raw.tensors.values() for ours in _undone(raw, theirs, version)]
    try:
        weights = weights_of(raw, tensors, low_rank_in_out=False)
    except ValueError as error:  # blocks that lie across the shape a tensor must have; the message names it
        raise ModelFileError(f"{raw.path}: tensor {error}") from error
    _check_header(weights)
    return weights


def _version(names: Mapping[str, Tensor]) -> int:
    """4, 5, 6 or 7, by the tensors rwkv.cpp's loader looks for."""
    telltales = {"att.k_k": 7, "att.time_maa_x": 6, "att.ln_x.weight": 5}
    return next((version for name, version in telltales.items() if f"blocks.0.{name}" in names), 4)


def _check_header(weights: Weights) -> None:
    """A file that lost its end would still run, and talk nonsense."""
    header, path = weights.metadata, weights.path
    emb, expected = weights.tensors.get("emb.weight"), (header["n_vocab"], header["n_embed"])
    if emb is None or emb.shape != expected:
        found = "missing" if emb is None else f"of shape {list(emb.shape)}"
        raise ModelFileError(f"{path}: tensor emb.weight is {found}, expected {list(expected)} as the header says")
    n_layer = header["n_layer"]
    if f"blocks.{n_layer - 1}.ln1.weight" not in weights.tensors or f"blocks.{n_layer}.ln1.weight" in weights.tensors:
        raise ModelFileError(f"{path}: the header says {n_layer} layers, but that is not what the file holds")


def _undone(raw: RawFile, tensor: Tensor, version: int) -> Iterator[Tensor]:
    """`tensor` before the converter fused, exponentiated or reshaped it."""
    block = _BLOCK.fullmatch(tensor.name)
    prefix, name = block.groups() if block else ("", tensor.name)
    if name == FUSED:
        rows = _reshaped(raw, tensor, 6, tensor.size // 6)
        yield from (rows[index].renamed(f"{prefix}att.x_{x}") for index, x in enumerate("rwkvag"))
        return
    if _PER_HEAD.fullmatch(name):
        if not FORMATS[tensor.format].is_float:
            what = f"tensor {quoted(tensor.name)}"
            raise ModelFileError(f"{raw.path}: {what} is stored as {tensor.format}, expected plain floats")
        tensor = _with_heads(raw, tensor, prefix, name, version)
    inverse = EXPONENTIALS[version].get(name)
    yield _inverted(raw, tensor, inverse) if inverse else tensor


def _with_heads(raw: RawFile, tensor: Tensor, prefix: str, name: str, version: int) -> Tensor:
    """Where there is one head, the first axis, which the converter's squeeze drops; version 6's decay flat."""
    if version == 6 and name == "att.time_decay":
        return tensor.reshape(tensor.size)
    norm, faaaa = raw.tensors.get(f"{prefix}att.ln_x.weight"), raw.tensors.get(f"{prefix}att.time_faaaa")
    one_head = norm is not None and faaaa is not None and faaaa.shape == (norm.size, 1)
    return tensor.reshape(1, tensor.size) if one_head else tensor


def _inverted(raw: RawFile, tensor: Tensor, inverse: Inverse) -> Tensor:
    """The numbers before the exponential, computed in float64; infinities are right where a decay is exactly 0 or 1."""
    if tensor.size > LARGEST_VECTOR:
        what = f"tensor {quoted(tensor.name)}"
        raise ModelFileError(f"{raw.path}: {what} has {tensor.size} numbers, too many for a vector")
    stored = tensor.decode(np.float64)
    if not inverse.domain(stored).all():
        raise ModelFileError(f"{raw.path}: tensor {quoted(tensor.name)} is expected to hold {inverse.expected}")
    with np.errstate(divide="ignore"):
        return Tensor(tensor.name, tensor.shape, "f32", inverse.raw(stored).astype(np.float32))


def _reshaped(raw: RawFile, tensor: Tensor, *shape: int) -> Tensor:
    try:
        return tensor if tensor.shape == shape else tensor.reshape(*shape)
    except ValueError as error:
        raise ModelFileError(
            f"{raw.path}: tensor {quoted(tensor.name)} is {tensor.format} {list(tensor.shape)}, expected {list(shape)}"
        ) from error
