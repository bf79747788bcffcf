"""Converts a version 6 or 7 .pth to GGUF layer by layer, with llama.cpp's names, shapes and vocabulary."""
import struct
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.tokenizer.world import WORLD_FILE, unpack
from rwkv_edge.weights import read_raw
from tests.checkpoints.gguf import encoded, metadata, renamed, stored_as, text, value
from tests.checkpoints.tiny import Checkpoint

OWN_TYPES = ("f32", "f16", "bf16", "q8_0")  # what is written here; others are made of bf16 by bench/quantize.py
ALIGNMENT = 32


def write_gguf(source: Path, target: Path, type: str) -> None:
    """`source` (.pth) with its matrices as `type`, one of OWN_TYPES."""
    tensors = dict(read_raw(source).tensors)
    version = "7" if "blocks.0.att.r_k" in tensors else "6"
    hollow = {name: np.broadcast_to(np.float32(0), tensor.shape) for name, tensor in tensors.items()}
    directory = [
        (name, stored_as(name, array, type), array.shape)
        for layer in _layers(hollow)
        for name, array in renamed(layer, version, 0).items()
    ]
    with target.open("wb") as file:
        file.write(_header(hollow, version, type, directory))
        for layer in _layers(tensors):
            floats = {name: tensor.decode() for name, tensor in layer.items()}
            for name, array in renamed(floats, version, 0).items():
                data = encoded(array, stored_as(name, array, type))
                file.write(data + bytes(-len(data) % ALIGNMENT))


def _layers(tensors: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tensors of each layer together, in file order; those outside the layers in groups of their own."""
    for _, group in groupby(tensors, key=lambda name: name.split(".")[:2] if name.startswith("blocks.") else name):
        yield {name: tensors[name] for name in group}


def _header(hollow: Checkpoint, version: str, type: str, directory: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Everything before the data; `hollow` has the shapes of the checkpoint, not its numbers."""
    fields = metadata(hollow, version, type, 0)
    if len(hollow["emb.weight"]) > 256:
        fields["tokenizer.ggml.tokens"] = world_vocabulary(len(hollow["emb.weight"]))
    out = struct.pack("<4sIQQ", b"GGUF", 3, len(directory), len(fields))
    for key, item in fields.items():
        kind, raw = value(item)
        out += text(key) + struct.pack("<I", kind) + raw
    at = 0
    for name, format, shape in directory:
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += struct.pack("<IQ", FORMATS[format].ggml_type, at)
        at += -(-FORMATS[format].nbytes(shape) // ALIGNMENT) * ALIGNMENT
    return out + bytes(-len(out) % ALIGNMENT)


def world_vocabulary(n_vocab: int) -> list[str]:
    """The World tokens as llama.cpp's converter escapes them; ids without a token are padding."""
    tokens = ["<s>", *(repr(token)[2:-1] for token in unpack(WORLD_FILE.read_bytes(), str(WORLD_FILE)))]
    return [*tokens, *(f"[PAD{i}]" for i in range(len(tokens), n_vocab))][:n_vocab]
