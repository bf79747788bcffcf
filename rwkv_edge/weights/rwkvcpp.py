"""rwkv.cpp's own model files (.bin), versions 100 and 101: a header, then one tensor after the other.

Format: docs/FILE_FORMAT.md and rwkv_file_format.inc of rwkv.cpp. Nothing is aligned. Version 101 (May 2023) came with
ggml's quantization version 2, whose block layouts ggml and GGUF still have. The quantized types of version 100 are laid
out differently under the same numbers, so of that version only FP32 and FP16 are read; rwkv.cpp refuses the rest too.
"""
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import map_file
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.raw import RawFile, float_tensor
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

MAGIC = struct.pack("<I", 0x67676D66)
FLOATS_ONLY, CURRENT = 100, 101
HEADER_FIELDS = ("n_vocab", "n_embed", "n_layer", "data_type")
MOST_TENSORS = 1 << 16
LONGEST_NAME = 256
MOST_AXES = 3

TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q5_0", 8: "q5_1", 9: "q8_0",
    11: "q2_k", 12: "q3_k", 13: "q4_k", 14: "q5_k", 15: "q6_k",
}  # fmt: skip
UNSUPPORTED_TYPES = {4: "q4_1_o", 5: "q4_2", 6: "q4_3", 10: "q8_1", 16: "q8_k"}

_HEADER = struct.Struct("<4sI4I")
_RECORD = struct.Struct("<3I")


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is for this reader."""
    return head.startswith(MAGIC)


def read(path: Path) -> RawFile:
    """All tensors of the file, as views; metadata: "version" and the header's fields. Raises ModelFileError."""
    bytes = map_file(path)
    if len(bytes) < _HEADER.size:
        raise ModelFileError(f"{path}: ends inside the header of {_HEADER.size} bytes")
    magic, version, *fields = _HEADER.unpack_from(bytes.data)
    if magic != MAGIC:
        raise ModelFileError(f"{path}: does not begin with rwkv.cpp's magic number")
    if version not in (FLOATS_ONLY, CURRENT):
        raise ModelFileError(f"{path}: has rwkv.cpp file version {version}, expected {FLOATS_ONLY} or {CURRENT}")
    tensors: dict[str, Tensor] = {}
    at = _HEADER.size
    while at < len(bytes):
        tensor, at = _read_tensor(path, bytes, at)
        what = f"tensor {quoted(tensor.name)}"
        if tensor.name in tensors:
            raise ModelFileError(f"{path}: {what} is there twice")
        if len(tensors) == MOST_TENSORS:
            raise ModelFileError(f"{path}: holds more than {MOST_TENSORS} tensors")
        if version == FLOATS_ONLY and not FORMATS[tensor.format].is_float:
            old = f"the {tensor.format} of rwkv.cpp file version {version}"
            raise ModelFileError(f"{path}: {what} is stored as {old}; quantize the FP16 file again")
        tensors[tensor.name] = tensor
    metadata: dict[str, Any] = {"version": version, **dict(zip(HEADER_FIELDS, fields, strict=True))}
    return RawFile(path, "rwkv.cpp", tensors, metadata)


def _read_tensor(path: Path, bytes: NDArray[np.uint8], at: int) -> tuple[Tensor, int]:
    """The tensor whose record begins at `at`, and where the next record begins."""
    shape_at = at + _RECORD.size
    if shape_at > len(bytes):
        raise ModelFileError(f"{path}: ends inside a tensor's record (at byte {at})")
    n_axes, name_length, kind = _RECORD.unpack_from(bytes.data, at)
    if not 1 <= n_axes <= MOST_AXES or not 1 <= name_length <= LONGEST_NAME:
        raise ModelFileError(f"{path}: has no tensor at byte {at}, where one is expected")
    name_at = shape_at + 4 * n_axes
    data_at = name_at + name_length
    if data_at > len(bytes):
        raise ModelFileError(f"{path}: ends inside a tensor's record (at byte {at})")
    shape = tuple(reversed(struct.unpack_from(f"<{n_axes}I", bytes.data, shape_at)))
    try:
        name = str(bytes.data[name_at:data_at], "utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: has a tensor name that is not UTF-8 (at byte {name_at})") from error
    what = f"tensor {quoted(name)}"
    if kind not in TYPES:
        stored = UNSUPPORTED_TYPES.get(kind, f"data type {kind}")
        raise ModelFileError(f"{path}: {what} is stored as {stored}, which this engine does not read")
    format = TYPES[kind]
    end = data_at + _nbytes(path, what, format, shape)
    if end > len(bytes):
        raise ModelFileError(f"{path}: {what} ends {end - len(bytes)} bytes after the end of the file")
    data = bytes[data_at:end]
    if format in FLOAT_STORAGE:
        return float_tensor(name, format, shape, data), end
    return Tensor(name, shape, format, data.reshape(*shape[:-1], -1)), end


def _nbytes(path: Path, what: str, format: str, shape: tuple[int, ...]) -> int:
    if 0 in shape:
        raise ModelFileError(f"{path}: {what} has shape {list(shape)}, expected no empty axis")
    try:
        return FORMATS[format].nbytes(shape)
    except ValueError as error:
        raise ModelFileError(f"{path}: {what} has {error}") from error
