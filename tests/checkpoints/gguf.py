"""GGUF files as llama.cpp's converter writes them, from our tiny checkpoints.

Sources: llama.cpp's conversion/rwkv.py and conversion/base.py. Written without the gguf package, which test_gguf.py
reads them with once: two independent writings of the format.
"""
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode import encode
from rwkv_edge.quant.formats import FORMATS
from tests.checkpoints.tiny import Checkpoint, round_to_bf16

Blob = tuple[str, str, tuple[int, ...], bytes]  # name, format, shape as [rows, width], data
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
FUSED = {"6": ("time_maa_", "wkvrg"), "7": ("x_", "rwkvag")}

U32, I32, F32, STRING, ARRAY = 4, 5, 6, 8, 9


class U64(int):
    """An int that is to be written as 64 bits."""


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> tuple[int, bytes]:
    """Type id and bytes of a metadata value."""
    match item:
        case bool():
            return 7, struct.pack("<?", item)
        case U64():
            return 10, struct.pack("<Q", item)
        case int():
            return (U32, struct.pack("<I", item)) if item >= 0 else (I32, struct.pack("<i", item))
        case float():
            return F32, struct.pack("<f", item)
        case str() | bytes():
            return STRING, text(item)
        case np.ndarray():
            kind = {"uint8": 0, "int32": I32, "float32": F32, "float64": 12}[item.dtype.name]
            return ARRAY, struct.pack("<IQ", kind, len(item)) + item.tobytes()
        case _:
            items = [value(i) for i in item]
            kind = items[0][0] if items else STRING
            return ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(raw for _, raw in items)


def file_bytes(metadata: Mapping[str, Any], blobs: Iterable[Blob], version: int = 3, alignment: int = 32) -> bytes:
    """A whole GGUF file; blobs in file order, each padded to the alignment."""
    blobs = list(blobs)
    header = struct.pack("<4sIQQ", b"GGUF", version, len(blobs), len(metadata))
    for key, item in metadata.items():
        kind, raw = value(item)
        header += text(key) + struct.pack("<I", kind) + raw
    data = b""
    for name, format, shape, raw in blobs:
        header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        header += struct.pack("<IQ", FORMATS[format].ggml_type, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return header + bytes(-len(header) % alignment) + data


def write_gguf(path: Path, checkpoint: Checkpoint, type: str = "f32", rescale_every: int = 0) -> Path:
    """`checkpoint` (version 6 or 7) with its matrices as `type`; `rescale_every` as the converter of version 6 does."""
    version = "7" if "blocks.0.att.r_k" in checkpoint else "6"
    named = renamed(checkpoint, version, rescale_every)
    blobs = [blob(name, array, stored_as(name, array, type)) for name, array in named.items()]
    path.write_bytes(file_bytes(metadata(checkpoint, version, type, rescale_every), blobs))
    return path


def metadata(checkpoint: Checkpoint, version: str, type: str, rescale_every: int) -> dict[str, Any]:
    n_vocab, n_embd = checkpoint["emb.weight"].shape
    n_layer = sum(name.endswith("ln1.weight") for name in checkpoint)
    heads = checkpoint["blocks.0.att.r_k" if version == "7" else "blocks.0.att.time_faaaa"]
    arch = f"rwkv{version}"
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "Tiny",
        f"{arch}.context_length": 1048576,
        f"{arch}.embedding_length": n_embd,
        f"{arch}.block_count": n_layer,
        f"{arch}.attention.layer_norm_epsilon": 1e-5,
        f"{arch}.wkv.head_size": heads.shape[1],
        f"{arch}.feed_forward_length": checkpoint["blocks.0.ffn.key.weight"].shape[0],
        f"{arch}.attention.head_count": 0,
        **({"rwkv6.rescale_every_n_layers": rescale_every} if version == "6" else {}),
        **ranks(checkpoint, version, n_layer),
        "general.file_type": FILE_TYPES[type],
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": byte_vocabulary(n_vocab),
        "tokenizer.ggml.token_type": np.array([3] + [1] * (n_vocab - 1), np.int32),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "general.quantization_version": 2,
    }  # fmt: skip


def ranks(checkpoint: Checkpoint, version: str, n_layer: int) -> dict[str, int]:
    """Of the low-rank maps; llama.cpp does not load a file without them."""
    last = f"blocks.{n_layer - 1}.att."
    if version == "6":
        mix, decay = checkpoint[f"{last}time_maa_w2"].shape[1], checkpoint[f"{last}time_decay_w2"].shape[0]
        return {"rwkv6.time_mix_extra_dim": mix, "rwkv6.time_decay_extra_dim": decay}
    names = {"w": "decay", "a": "iclr", "v": "value_residual_mix", "g": "gate"}
    return {f"rwkv7.attention.{name}_lora_rank": checkpoint[f"{last}{x}1"].shape[1] for x, name in names.items()}


def byte_vocabulary(n_vocab: int) -> list[str]:
    """Token i is byte i, escaped as llama.cpp does; token 0 ends a document, tokens past 255 are padding."""
    tokens = ["<s>", *(repr(bytes([i]))[2:-1] for i in range(1, 256)), *(f"[PAD{i}]" for i in range(256, n_vocab))]
    return tokens[:n_vocab]


NAMES: Sequence[tuple[str, str]] = (
    (r"emb\.", "token_embd."), (r"ln_out\.", "output_norm."), (r"head\.", "output."),
    (r"blocks\.0\.ln0\.", "token_embd_norm."), (r"blocks\.(\d+)\.", r"blk.\1."),
    (r"\.ln1\.", ".attn_norm."), (r"\.ln2\.", ".attn_norm_2."),
    (r"\.att\.ln_x\.", ".time_mix_ln."), (r"\.att\.time_faaaa", ".time_mix_first"),
    (r"\.att\.time_maa_([xwkvrg])$", r".time_mix_lerp_\1"), (r"\.att\.time_maa_(w[12])", r".time_mix_\1"),
    (r"\.att\.time_", ".time_mix_"), (r"\.att\.", ".time_mix_"),
    (r"\.ffn\.time_maa_", ".channel_mix_lerp_"), (r"\.ffn\.x_", ".channel_mix_lerp_"), (r"\.ffn\.", ".channel_mix_"),
)  # fmt: skip


def renamed(checkpoint: Checkpoint, version: str, rescale_every: int) -> Checkpoint:
    """Under llama.cpp's names and in its shapes: the lerps of a layer fused, version 7's layer 0 with a* also as v*."""
    prefix, order = FUSED[version]
    out: Checkpoint = {}
    for name, array in checkpoint.items():
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        short = name.partition(".att.")[2]
        if short in [prefix + x for x in order]:
            if short == prefix + order[0]:
                parts = [checkpoint[f"blocks.{layer}.att.{prefix}{x}"].reshape(1, 1, -1) for x in order]
                out[f"blk.{layer}.time_mix_lerp_fused.weight"] = np.stack(parts)
            continue
        if layer == 0 and short in ("v0", "v1", "v2"):
            continue
        new = name
        for pattern, replacement in NAMES:
            new = re.sub(pattern, replacement, new)
        new += "" if new.endswith((".weight", ".bias")) else ".weight"
        if rescale_every and new.endswith(("time_mix_output.weight", "channel_mix_value.weight")):
            array = array / np.float32(2 ** (layer // rescale_every))
        out[new] = reshaped(short, array)
        if version == "7" and layer == 0 and short in ("a0", "a1", "a2"):
            out[new.replace("time_mix_a", "time_mix_v")] = out[new]
    return out


def reshaped(short: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    if short == "r_k":
        return array.reshape(-1)
    if short == "time_maa_w2":
        return array.transpose(0, 2, 1)
    if re.fullmatch(r"[wavg][12]|time_maa_w1|time_decay_w[12]", short):
        return array.T
    return array if short == "time_faaaa" else array.squeeze()


def stored_as(name: str, array: NDArray[np.float32], type: str) -> str:
    """The converter keeps vectors and a list of small tensors in F32; rows that Q8_0 cannot hold become F16."""
    if array.ndim < 2 or re.search(r"time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight|_norm\.weight", name):
        return "f32"
    return "f16" if type == "q8_0" and array.shape[-1] % 32 else type


def blob(name: str, array: NDArray[np.float32], format: str) -> Blob:
    return name, format, array.shape, encoded(array, format)


def encoded(array: NDArray[np.float32], format: str) -> bytes:
    """Row-major bytes of `array` in `format`: a plain float or q8_0."""
    array = np.ascontiguousarray(array, np.float32)
    if format == "bf16":
        return (round_to_bf16(array).view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    if format == "q8_0":
        return encode("q8_0", array).tobytes()
    return array.astype({"f32": "<f4", "f16": "<f2"}[format]).tobytes()
