"""Writes safetensors files and model directories under any project's names, without the safetensors package."""
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints.namings import renamed
from tests.checkpoints.pth import stored
from tests.checkpoints.tiny import Checkpoint

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


def write_safetensors(
    path: Path,
    checkpoint: Checkpoint,
    naming: str = "original",
    dtype: str = "bf16",
    metadata: dict[str, str] | None = None,
) -> Path:
    """A tiny(...) checkpoint as one file; naming: a key of tests.checkpoints.namings.NAMINGS. Returns `path`."""
    path.write_bytes(safetensors_bytes(renamed(checkpoint, naming), dtype, metadata))
    return path


def safetensors_bytes(arrays: Checkpoint, dtype: str = "bf16", metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = bytearray()
    for name, array in arrays.items():
        data = stored(np.ascontiguousarray(array), dtype)
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": DTYPES[dtype], "shape": list(array.shape), "data_offsets": place}
        body += data
    return file_bytes(json.dumps(header), bytes(body))


def file_bytes(header: str | bytes, body: bytes, align: int = 8) -> bytes:
    """The file with this header text, padded with spaces so that the data starts at a multiple of `align`."""
    raw = header.encode() if isinstance(header, str) else header
    raw += b" " * (-len(raw) % align)
    return len(raw).to_bytes(8, "little") + raw + body


def write_directory(
    directory: Path, checkpoint: Checkpoint, naming: str = "hf", dtype: str = "bf16", shards: int = 1, **config: Any
) -> Path:
    """A Hugging Face model directory: config.json, and model.safetensors or `shards` shards with their index."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    arrays = renamed(checkpoint, naming)
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(arrays, dtype))
        return directory
    names = list(arrays)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        part, file = names[i::shards], f"model-{i + 1:05}-of-{shards:05}.safetensors"
        (directory / file).write_bytes(safetensors_bytes({name: arrays[name] for name in part}, dtype))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
