"""Fine-tuned parts that are kept in a file of their own (LoRA, PiSSA, Bone, DiSHA), merged into a model's weights.

Keys are RWKV-PEFT's: `X.lora_A` [r, in] and `X.lora_B` [out, r] change `X.weight`; so do `X.bone` and `X.disha`. All else in
the file (norms, time_*, a tuned state) replaces the model's tensor of that name. Source: RWKV-PEFT, merge/*.py.
"""
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.arch import UNUSED
from rwkv_edge.backend import Encoder
from rwkv_edge.convert.encoding import cores, encoder_for
from rwkv_edge.errors import InputError, ModelFileError, quoted
from rwkv_edge.machine.mapping import release
from rwkv_edge.quant.floats import encode_floats
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights import read_raw
from rwkv_edge.weights.adapters import Adapter, Blocks, LowRank, Repeated
from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Tensor, Weights

PART = re.compile(r"(?:model\.)?(.+)\.(lora_A|lora_B|init_lora_A|init_lora_B|bone|disha)")
TUNED = re.compile(r"blocks\.\d+\.att\.time_state")
WEIGHTS_A_PRODUCT = 1 << 22  # at a time, as floats: 16 MB
WEIGHTS_A_PART = 1 << 18  # that a thread encodes

Parts = Mapping[str, Tensor]  # of one matrix: "lora_A" -> tensor


def with_lora(weights: Weights, path: str | Path | None, alpha: float | None, init: str | Path | None) -> Weights:
    """`weights` with what the file `path` adds and replaces; without one the others mean nothing.

    alpha: low-rank products count alpha / rank. It is not in the file; RWKV-PEFT's training command has it as lora_alpha.
    init: PiSSA's file of first factors (init_pissa.pth), whose product is taken away; then there is no alpha.

    A matrix that is changed keeps its format: floats are computed in float32 and rounded once, blocks are encoded anew. Only
    those matrices are in memory, the others stay in the file. Raises ModelFileError that names the tensor, InputError.
    """
    if path is None:
        raise InputError("lora_alpha and lora_init belong to a LoRA file: give its name, too")
    if alpha is not None and (not isinstance(alpha, int | float) or not math.isfinite(alpha)):
        raise InputError(f"lora_alpha must be a number, got {alpha!r}")
    file = _opened(path, "a LoRA file")
    parts, others = _sorted_out(file)
    used = list(file.tensors.values())
    if not parts:
        _refuse_what_is_no_lora(file, others)
    if init is not None:
        first = _opened(init, "a PiSSA's initial factors")
        used += first.tensors.values()
        _add_first_factors(parts, first)
    tensors = {**weights.tensors, **_replacements(weights, file, others)}
    encoder = encoder_for(tensor.format for tensor in tensors.values())
    for name, of_matrix in parts.items():
        patch = Patch(file.path, weights.path, _target(file, weights, tensors, name, of_matrix), of_matrix)
        tensors[patch.target.name] = merged(patch, alpha, weights.hints.divisor(patch.target.name), encoder)
    return replace(weights, tensors=tensors, adapter=_digest(used, alpha))


def _opened(path: str | Path, expected: str) -> RawFile:
    if not os.path.exists(path):
        raise ModelFileError(f"{path}: there is no such file, expected {expected}")
    return read_raw(path)


def _sorted_out(file: RawFile) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Matrix name (without ".weight") -> its parts; and all other tensors by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        if match := PART.fullmatch(name):
            parts.setdefault(match[1], {})[match[2]] = tensor
        else:
            others[name.removeprefix("model.")] = tensor
    return parts, others


def _refuse_what_is_no_lora(file: RawFile, others: Mapping[str, Tensor]) -> None:
    if "emb.weight" in others or file.source in ("gguf", "rwkv.cpp"):
        raise ModelFileError(f"{file.path}: is a model, expected a LoRA file with lora_A and lora_B tensors")
    if all(TUNED.fullmatch(name) for name in others):
        raise ModelFileError(f"{file.path}: holds a tuned initial state, expected a LoRA file; give it as the state instead")


def _add_first_factors(parts: dict[str, dict[str, Tensor]], first: RawFile) -> None:
    """The initial factors of a PiSSA beside the trained ones."""
    initial, _ = _sorted_out(first)
    for name, of_matrix in parts.items():
        of_matrix |= {kind: part for kind, part in initial.get(name, {}).items() if kind.startswith("init")}
        if "lora_A" in of_matrix and not {"init_lora_A", "init_lora_B"} <= of_matrix.keys():
            raise ModelFileError(f"{first.path}: has no {quoted(f'{name}.init_lora_A')} and init_lora_B, which PiSSA needs")


def _target(file: RawFile, weights: Weights, tensors: Mapping[str, Tensor], name: str, parts: Parts) -> Tensor:
    target = tensors.get(f"{name}.weight")
    if target is None or len(target.shape) != 2:
        example, matrix = next(iter(parts.values())).name, quoted(f"{name}.weight")
        raise ModelFileError(f"{file.path}: tensor {quoted(example)} changes {matrix}, which is no matrix of {weights.path}")
    return target


def _replacements(weights: Weights, file: RawFile, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that take the place of the model's, in our shapes and scaled as the model's are."""
    known = {
        name: tensor.renamed(name)
        for name, tensor in others.items()
        if name in weights.tensors or not UNUSED.fullmatch(name)
    }
    ours = weights_of(RawFile(file.path, file.source, known, {}), known.values(), low_rank_in_out=True).tensors
    for name, tensor in ours.items():
        there = weights.tensors.get(name)
        if there is None and not TUNED.fullmatch(name):
            raise ModelFileError(f"{file.path}: tensor {quoted(name)} is none that {weights.path} has")
        if there is not None and there.shape != tensor.shape:
            expected = f"expected {list(there.shape)} as in {weights.path}"
            raise ModelFileError(f"{file.path}: tensor {quoted(name)} has shape {list(tensor.shape)}, {expected}")
    return {name: _divided(tensor, weights.hints.divisor(name)) for name, tensor in ours.items()}


def _divided(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else replace(tensor, format="f32", data=tensor.decode(np.float32) / np.float32(factor))


@dataclass(frozen=True, slots=True)
class Patch:
    """What a file has for one matrix. path: the file's.  model: of the file that the matrix `target` is from."""

    path: Path
    model: Path
    target: Tensor
    parts: Parts

    def adapters(self, alpha: float | None) -> Iterator[Adapter]:
        """In the order in which they are applied. Raises ModelFileError: a shape does not fit; InputError: alpha is missing."""
        n_out, n_in = self.target.shape
        if self.parts.keys() & {"init_lora_A", "init_lora_B"}:
            yield self._low_rank("init_", -1.0)
            yield self._low_rank("", 1.0)
        elif self.parts.keys() & {"lora_A", "lora_B"}:
            if alpha is None:
                raise InputError(f"{self.path}: needs lora_alpha, which is not in the file: take it from the training command")
            yield self._low_rank("", alpha / max(1, self._checked("lora_A", (None, n_in)).shape[0]))
        for kind in ("bone", "disha"):
            if kind not in self.parts:
                continue
            if kind == "disha" and len(self.parts[kind].shape) == 2:
                yield Repeated(self._checked(kind, (None, n_out)).decode(np.float32))
                continue
            r = self._checked(kind, (None, None, None)).shape[1]
            if n_out % r or n_in % r:
                raise self._misshapen(kind, f"r that divides {n_out} and {n_in}")
            yield Blocks(self._checked(kind, (n_in // r, r, r)).decode(np.float32))

    def _low_rank(self, prefix: str, scale: float) -> LowRank:
        n_out, n_in = self.target.shape
        down = self._checked(f"{prefix}lora_A", (None, n_in))
        up = self._checked(f"{prefix}lora_B", (n_out, down.shape[0]))
        return LowRank(down.decode(np.float32), up.decode(np.float32), scale)

    def _checked(self, kind: str, expected: tuple[int | None, ...]) -> Tensor:
        """The part of this kind, of a shape in which None is any size."""
        part = self.parts.get(kind)
        if part is None:
            name = quoted(f"{self.target.name.removesuffix('.weight')}.{kind}")
            raise ModelFileError(f"{self.path}: tensor {name} is missing beside {next(iter(self.parts))}")
        fits = len(part.shape) == len(expected) and all(
            n >= 1 if e is None else n == e for n, e in zip(part.shape, expected, strict=True)
        )
        if not fits:
            raise self._misshapen(kind, f"[{', '.join('any' if e is None else str(e) for e in expected)}]")
        return part

    def _misshapen(self, kind: str, expected: str) -> ModelFileError:
        found = f"tensor {quoted(self.parts[kind].name)} has shape {list(self.parts[kind].shape)}"
        return ModelFileError(f"{self.path}: {found}, expected {expected} for {self.target.name} of {self.model}")


def merged(patch: Patch, alpha: float | None, factor: float, encoder: Encoder) -> Tensor:
    """The matrix with the patch in it, in its own format. factor: see `Hints.divisor`.

    Products are made in large pieces and by one thread, because BLAS brings its own threads; encoding is shared by all cores.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    tensor, adapters = patch.target, list(patch.adapters(alpha))
    encode = encode_as_float if FORMATS[tensor.format].is_float else encoder
    out = np.empty(tensor.data.shape, tensor.data.dtype)
    width = tensor.shape[1]
    step, part = max(1, WEIGHTS_A_PRODUCT // width), max(1, WEIGHTS_A_PART // width)
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, tensor.shape[0], step):
            piece = tensor[first : first + step]
            rows = np.array(piece.decode(np.float32), order="C")
            release(piece.data)
            rows *= np.float32(factor)
            for adapter in adapters:
                adapter.change(rows, first)
            rows /= np.float32(factor)
            parts = [rows[at : at + part] for at in range(0, len(rows), part)]
            try:
                encoded = list(pool.map(encode, [tensor.format] * len(parts), parts))
            except ValueError as error:
                what = f"{tensor.name}, changed by it, cannot be {tensor.format}"
                raise ModelFileError(f"{patch.path}: {what}: {error}") from error
            np.concatenate(encoded, out=out[first : first + step])
    return replace(tensor, data=out)


def encode_as_float(format: str, rows: NDArray[np.float32]) -> NDArray[Any]:
    return encode_floats(rows, format)


def _digest(tensors: Iterable[Tensor], alpha: float | None) -> str:
    """Names what was merged, for the fingerprint."""
    digest = hashlib.sha256(f"{alpha}".encode())
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.format} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor.data).tobytes())
    return digest.hexdigest()[:8]
