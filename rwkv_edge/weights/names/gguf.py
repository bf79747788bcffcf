"""GGUF tensors and ours: one table an architecture, read in both directions.

rwkv6 and rwkv7 are as llama.cpp names them (conversion/rwkv.py and gguf-py/gguf/tensor_mapping.py); rwkv4 and rwkv5,
which it does not know, are this project's own, named alike.
"""
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Hints, Tensor, Weights

# Our name; or our names of the parts that a fused tensor holds along its first axis; or None for what no one reads.
Target = str | tuple[str, ...] | None


def _weight_and_bias(*pairs: tuple[str, str]) -> dict[str, Target]:
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in pairs for kind in ("weight", "bias")}


FIRST: dict[str, Target] = {"token_embd.weight": "emb.weight", **_weight_and_bias(("token_embd_norm", "blocks.0.ln0"))}
LAST: dict[str, Target] = {**_weight_and_bias(("output_norm", "ln_out")), "output.weight": "head.weight"}
TOP = FIRST | LAST

BLOCK: dict[str, Target] = {
    **_weight_and_bias(("attn_norm", "ln1"), ("attn_norm_2", "ln2"), ("time_mix_ln", "att.ln_x")),
    **{f"time_mix_{m}.weight": f"att.{m}.weight" for m in ("receptance", "key", "value", "output")},
    **{f"channel_mix_{m}.weight": f"ffn.{m}.weight" for m in ("key", "value")},
    "time_mix_state.weight": "att.time_state",  # of a state-tuned model: ours, llama.cpp has no such tensor
}

GATED: dict[str, Target] = BLOCK | {
    "time_mix_gate.weight": "att.gate.weight",
    "channel_mix_receptance.weight": "ffn.receptance.weight",
}

BLOCK_4: dict[str, Target] = GATED | {
    **{f"time_mix_lerp_{x}.weight": f"att.time_mix_{x}" for x in "kvrg"},
    **{f"time_mix_{m}.weight": f"att.time_{m}" for m in ("decay", "first")},
    **{f"channel_mix_lerp_{x}.weight": f"ffn.time_mix_{x}" for x in "kr"},
}

BLOCK_5: dict[str, Target] = BLOCK_4 | {"time_mix_faaaa.weight": "att.time_faaaa"}  # 5.2's; 5.0 and 5.1 have `first`

BLOCK_6: dict[str, Target] = GATED | {
    "time_mix_lerp_x.weight": "att.time_maa_x",
    "time_mix_lerp_fused.weight": tuple(f"att.time_maa_{x}" for x in "wkvrg"),
    **{f"time_mix_lerp_{x}.weight": f"att.time_maa_{x}" for x in "wkvrg"},  # files from before the fusion
    **{f"time_mix_{m}.weight": f"att.time_maa_{m}" for m in ("w1", "w2")},
    **{f"time_mix_{m}.weight": f"att.time_{m}" for m in ("decay", "decay_w1", "decay_w2")},
    "time_mix_first.weight": "att.time_faaaa",
    **{f"channel_mix_lerp_{x}.weight": f"ffn.time_maa_{x}" for x in "kr"},
}

BLOCK_7: dict[str, Target] = BLOCK | {
    "time_mix_lerp_fused.weight": tuple(f"att.x_{x}" for x in "rwkvag"),
    **{f"time_mix_{m}.weight": f"att.{m}" for m in ("k_k", "k_a", "r_k", "g1", "g2")},
    **{f"time_mix_{m}{i}.weight": f"att.{m}{i}" for m in "wav" for i in range(3)},
    "channel_mix_lerp_k.weight": "ffn.x_k",
}

# Layer 0 has no use for these; the converter puts copies of others there, because llama.cpp wants to find something.
FIRST_BLOCK_7: dict[str, Target] = {f"time_mix_v{i}.weight": None for i in range(3)}
STAND_INS = {f"time_mix_v{i}.weight": f"att.a{i}" for i in range(3)}

# Architecture -> names in every block, and names that mean something else in the first.
ARCHITECTURES: dict[str, tuple[Mapping[str, Target], Mapping[str, Target]]] = {
    "rwkv4": (BLOCK_4, {}),
    "rwkv5": (BLOCK_5, {}),
    "rwkv6": (BLOCK_6, {}),
    "rwkv7": (BLOCK_7, FIRST_BLOCK_7),
}

# Told apart from the above because their names promise an RWKV.
HYBRIDS = {
    "rwkv6qwen2": "a Qwen2 whose attention was replaced by RWKV-6",
    "arwkv7": "a Qwen2 whose attention was replaced by RWKV-7",
}

PER_HEAD = ("att.time_faaaa", "att.r_k")


def recognise(raw: RawFile) -> bool:
    return raw.source == "gguf"


def to_ours(raw: RawFile) -> Weights:
    """All tensors under our names and shapes, as views. Raises ModelFileError."""
    arch = raw.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        what = HYBRIDS.get(arch, f"a model of architecture {quoted(arch)}") if isinstance(arch, str) else "no model"
        readable = ", ".join(ARCHITECTURES)
        raise ModelFileError(f"{raw.path}: holds {what}; this engine reads {readable} from GGUF files")
    if raw.metadata.get("general.type", "model") != "model":
        raise ModelFileError(f"{raw.path}: is of type {quoted(raw.metadata['general.type'])}, expected a model")
    _check_layers(raw, _integer(raw, f"{arch}.block_count", 1, 1 << 16))
    head_size = _integer(raw, f"{arch}.wkv.head_size", 1, 1 << 16)
    hints = Hints(
        head_size=head_size,
        layer_norm_eps=_epsilon(raw, f"{arch}.attention.layer_norm_epsilon"),
        rescale_every_n_layers=_integer(raw, f"{arch}.rescale_every_n_layers", 0, 1 << 16, default=0),
        vocabulary=_vocabulary(raw),
    )
    tensors: dict[str, Tensor] = {}
    for theirs in raw.tensors.values():
        for ours in _renamed(raw, arch, theirs, head_size):
            if ours.name in tensors:
                raise ModelFileError(f"{raw.path}: two tensors stand for {ours.name}, one is {quoted(theirs.name)}")
            tensors[ours.name] = ours
    return Weights(raw.path, raw.source, tensors, hints, raw.metadata)


def from_ours(arch: str, names: Collection[str], n_layer: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The tensors of a GGUF file for a model that has `names` (ours): (its name, our names of what it holds), in order.

    Several names belong to a fused tensor. Names that `arch` has no tensor for are left out.
    """
    every_block, first_block = ARCHITECTURES[arch]
    blocks = [(f"blk.{i}.", f"blocks.{i}.", every_block if i else {**every_block, **first_block}) for i in range(n_layer)]
    rooms = [("", "", FIRST), *blocks, ("", "", LAST)]
    told: set[str] = set()
    for their_prefix, our_prefix, table in rooms:
        for theirs, target in table.items():
            parts = target if isinstance(target, tuple) else (target or STAND_INS[theirs],)
            ours = tuple(our_prefix + name for name in parts)
            if not all(name in names for name in ours) or (target and not told.isdisjoint(ours)):
                continue  # the model has no such tensor, or this is an older name for one that was told
            told.update(ours)
            yield their_prefix + theirs, ours


def _check_layers(raw: RawFile, count: int) -> None:
    """A file that lost its last layers would still run, and talk nonsense."""
    if f"blk.{count - 1}.attn_norm.weight" not in raw.tensors or f"blk.{count}.attn_norm.weight" in raw.tensors:
        raise ModelFileError(f"{raw.path}: the metadata says {count} layers, but that is not what the file holds")


def _renamed(raw: RawFile, arch: str, tensor: Tensor, head_size: int) -> Iterator[Tensor]:
    """What `tensor` is to us: one tensor, the parts of a fused one, or nothing."""
    every_block, first_block = ARCHITECTURES[arch]
    prefix, table, name = "", TOP, tensor.name
    if block := re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(.*)", name):
        prefix, name = f"blocks.{block[1]}.", block[2]
        table = {**every_block, **first_block} if block[1] == "0" else dict(every_block)
    if name not in table:
        raise ModelFileError(f"{raw.path}: tensor {quoted(tensor.name)} is none that an {arch} model has")
    target = table[name]
    if isinstance(target, tuple):
        yield from _parts(raw, tensor, [prefix + part for part in target])
    elif target in PER_HEAD:
        if not tensor.shape or tensor.size % head_size or not _is_float(tensor):
            raise _unexpected(raw, tensor, f"plain floats in heads of {head_size}")
        yield tensor.reshape(tensor.size // head_size, head_size).renamed(prefix + target)
    elif target is not None:
        yield tensor.renamed(prefix + target)


def _parts(raw: RawFile, tensor: Tensor, names: list[str]) -> Iterator[Tensor]:
    """Vectors from a tensor of shape [parts, 1, 1, width]."""
    width = tensor.shape[-1]
    if tensor.shape[0] != len(names) or tensor.size != len(names) * width:
        raise _unexpected(raw, tensor, f"{len(names)} vectors")
    rows = tensor.reshape(len(names), width)
    for index, name in enumerate(names):
        yield rows[index].renamed(name)


def _is_float(tensor: Tensor) -> bool:
    return tensor.format in ("f32", "f16", "bf16")


def _unexpected(raw: RawFile, tensor: Tensor, expected: str) -> ModelFileError:
    found = f"{tensor.format} {list(tensor.shape)}"
    return ModelFileError(f"{raw.path}: tensor {quoted(tensor.name)} is {found}, expected {expected}")


def _integer(raw: RawFile, key: str, least: int, most: int, default: int | None = None) -> int:
    value = raw.metadata.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ModelFileError(f"{raw.path}: metadata {key} is {_shown(value)}, expected a number from {least} to {most}")
    return value


def _epsilon(raw: RawFile, key: str) -> float:
    value = raw.metadata.get(key, 1e-5)
    if not isinstance(value, float) or not math.isfinite(value) or not 0 < value < 1:
        raise ModelFileError(f"{raw.path}: metadata {key} is {_shown(value)}, expected a small positive number")
    return float(str(np.float32(value)))  # the decimal number that was rounded to 32 bits


def _vocabulary(raw: RawFile) -> list[str] | None:
    """The World-style vocabulary in the file, tokens escaped as Python writes bytes; None where there is none."""
    if raw.metadata.get("tokenizer.ggml.model") != "rwkv":
        return None
    tokens = raw.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelFileError(f"{raw.path}: metadata tokenizer.ggml.tokens is no list of texts")
    return tokens


def _shown(value: Any) -> str:
    return "missing" if value is None else quoted(str(value) if isinstance(value, int | float) else value)
