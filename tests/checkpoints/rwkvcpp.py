"""rwkv.cpp files as its converter and quantizer write them (python/convert_pytorch_to_ggml.py, rwkv_quantize.inc)."""
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints.gguf import Blob, encoded
from tests.checkpoints.tiny import Checkpoint

Array = NDArray[np.float32]

TYPE_IDS = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 7, "q5_1": 8, "q8_0": 9,
    "q2_k": 11, "q3_k": 12, "q4_k": 13, "q5_k": 14, "q6_k": 15,
}  # fmt: skip
KEPT_IN_F32 = (".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0")


def file_bytes(blobs: Iterable[Blob], header: tuple[int, int, int, int], version: int = 101) -> bytes:
    """header: vocabulary, width, layers and the type of most tensors."""
    out = struct.pack("<6I", 0x67676D66, version, *header)
    for name, format, shape, raw in blobs:
        out += struct.pack("<3I", len(shape), len(name.encode()), TYPE_IDS[format])
        out += struct.pack(f"<{len(shape)}I", *reversed(shape)) + name.encode() + raw
    return out


def write_rwkvcpp(path: Path, checkpoint: Checkpoint, version: int = 101, type: str = "f32") -> Path:
    """`checkpoint` of any version; `type`: "f32", "f16", or "q8_0" as rwkv.cpp makes it out of the FP16 file."""
    n_layer = sum(name.endswith("ln1.weight") for name in checkpoint)
    n_vocab, n_embed = checkpoint["emb.weight"].shape
    blobs = []
    for name, array in converted(checkpoint).items():
        format = stored_as(name, array, type)
        blobs.append((name, format, array.shape, encoded(array, format)))
    path.write_bytes(file_bytes(blobs, (n_vocab, n_embed, n_layer, TYPE_IDS[type]), version))
    return path


def stored_as(name: str, array: Array, type: str) -> str:
    """The converter halves all but vectors and small tensors; the quantizer takes matrices other than emb and head.

    It cannot take rows that its blocks do not divide; released models have none, our tiny ones do, and these stay FP16.
    """
    if type == "q8_0" and array.ndim == 2 and name not in ("emb.weight", "head.weight") and array.shape[1] % 32 == 0:
        return "q8_0"
    if type == "f32" or array.ndim == 1 or any(part in name for part in KEPT_IN_F32):
        return "f32"
    return "f16"


def converted(checkpoint: Checkpoint) -> Checkpoint:
    """Fused, squeezed, transposed and exponentiated as the converter does."""
    branch = next(branch for telltale, branch in BRANCHES if f"blocks.0.att.{telltale}" in checkpoint)
    n_head = len(checkpoint.get("blocks.0.att.time_faaaa", ()))
    out: Checkpoint = {}
    for name, array in checkpoint.items():
        if ".att.x_" in name:
            fused = re.sub(r"x_.$", "x_rwkvag", name)
            out[fused] = np.concatenate([out[fused], array]) if fused in out else array
        else:
            out[name] = branch(name, array.squeeze() if ".time_" in name else array, n_head)
    return out


def _seven(name: str, array: Array, n_head: int) -> Array:
    return array.T if re.search(r"\.[wavg][12]", name) else array


def _six(name: str, array: Array, n_head: int) -> Array:
    if "time_faaaa" in name:
        return array[..., None]
    if "time_maa_w1" in name or "time_decay_w" in name:
        return array.T
    if "time_maa_w2" in name:
        return array.transpose(0, 2, 1)
    return array.reshape(n_head, -1, 1) if "time_decay" in name else array


def _five_gated(name: str, array: Array, n_head: int) -> Array:
    return np.exp(-np.exp(array))[..., None] if "time_decay" in name else _five(name, array, n_head)


def _five(name: str, array: Array, n_head: int) -> Array:
    if "time_decay" in name:
        return np.exp(-np.exp(array)).reshape(-1, 1, 1)
    if "time_first" in name:
        return np.exp(array).reshape(-1, 1, 1)
    return array[..., None] if "time_faaaa" in name else array


def _four(name: str, array: Array, n_head: int) -> Array:
    return -np.exp(array) if "time_decay" in name else array


# The converter's branch for a checkpoint that has this tensor.
BRANCHES = (
    ("k_k", _seven),
    ("time_maa_x", _six),
    ("gate.weight", _five_gated),
    ("ln_x.weight", _five),
    ("key.weight", _four),
)
