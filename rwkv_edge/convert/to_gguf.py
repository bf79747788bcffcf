"""A model as the fields and entries of a GGUF file: llama.cpp's for versions 6 and 7, our own for 4 and 5."""
from pathlib import Path
from typing import Any

from rwkv_edge.arch import UNUSED, ModelShape
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.gguf_format import Value
from rwkv_edge.convert.mix import Mix
from rwkv_edge.convert.vocabulary import vocabulary_fields
from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights.names.gguf import from_ours
from rwkv_edge.weights.tensor import Tensor, Weights

CONTEXT_LENGTH = 1048576  # what llama.cpp's converter says: a recurrent model has no limit
QUANTIZATION_VERSION = 2

# Version 7's low-rank maps, by the names that llama.cpp has for their ranks.
RANKS = {"w": "decay", "a": "iclr", "v": "value_residual_mix", "g": "gate"}

# Taken over from a GGUF source; what describes the file rather than the model is written anew.
KEPT = (
    "general.name", "general.author", "general.version", "general.organization", "general.finetune", "general.basename",
    "general.description", "general.size_label", "general.license", "general.license.name", "general.license.link",
    "general.url", "general.repo_url", "general.tags", "general.languages",
)  # fmt: skip


def architecture(shape: ModelShape) -> str:
    return f"rwkv{shape.version[0]}"


def gguf_entries(weights: Weights, shape: ModelShape, mix: Mix) -> list[Entry]:
    """The tensors of the file in order; matrices that are stored divided stay so."""
    entries = []
    for name, ours in from_ours(architecture(shape), weights.tensors.keys(), shape.n_layer):
        parts = tuple(weights.tensors[n] for n in ours)
        written = _written_shape(name, parts)
        entries.append(Entry(name, written, mix.format(ours[0], written, parts[0].format), parts))
    told = {part.name for entry in entries for part in entry.parts}
    for name in weights.tensors:
        if name not in told and not UNUSED.fullmatch(name):
            raise ModelFileError(f"{weights.path}: tensor {name} has no place in a GGUF file of {architecture(shape)}")
    return entries


def _written_shape(name: str, parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    if name.endswith("time_mix_lerp_fused.weight"):
        return (len(parts), 1, 1, parts[0].size)
    return (parts[0].size,) if name.endswith("time_mix_r_k.weight") else parts[0].shape


def gguf_fields(weights: Weights, shape: ModelShape, mix: Mix) -> dict[str, Value]:
    """The metadata that llama.cpp asks for, and what a GGUF source says about the model."""
    arch = architecture(shape)
    kept = {key: weights.metadata[key] for key in KEPT if _is_text(weights.metadata.get(key))}
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": _name(weights.path),
        **kept,
        f"{arch}.context_length": CONTEXT_LENGTH,
        f"{arch}.embedding_length": shape.n_embd,
        f"{arch}.block_count": shape.n_layer,
        f"{arch}.feed_forward_length": shape.n_ffn,
        f"{arch}.attention.layer_norm_epsilon": weights.hints.layer_norm_eps,
        f"{arch}.attention.head_count": 0,
        f"{arch}.wkv.head_size": shape.head_size,
        **_ranks(weights, shape),
        "general.file_type": mix.file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
        **vocabulary_fields(weights, shape.n_vocab, arch),
    }


def _name(path: Path) -> str:
    """Of a file whose name is no UTF-8, with "?" for what is not."""
    return (path.name if path.is_dir() else path.stem).encode(errors="replace").decode()


def _ranks(weights: Weights, shape: ModelShape) -> dict[str, Value]:
    """Of the low-rank maps, without which llama.cpp loads no file, and version 6's rescaling."""
    last = f"blocks.{shape.n_layer - 1}.att."
    if shape.version == "6":
        return {
            "rwkv6.rescale_every_n_layers": weights.hints.rescale_every_n_layers,
            "rwkv6.time_mix_extra_dim": weights.tensors[f"{last}time_maa_w2"].shape[2],
            "rwkv6.time_decay_extra_dim": weights.tensors[f"{last}time_decay_w2"].shape[1],
        }
    if shape.version != "7":
        return {}
    ranks = {x: weights.tensors.get(f"{last}{x}1") for x in RANKS}
    return {f"rwkv7.attention.{RANKS[x]}_lora_rank": rank.shape[0] if rank else 0 for x, rank in ranks.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
