"""safetensors files (.safetensors, .st), memory-mapped.

8 bytes little-endian header length, a JSON header {name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the
data, which the tensors must cover without holes or overlap. "__metadata__" maps text to text. Source: the format
section of the safetensors README, https://github.com/huggingface/safetensors.
"""
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import map_file
from rwkv_edge.weights.raw import RawFile, float_tensor, shape_problem
from rwkv_edge.weights.strict_json import JsonRefused, parse_object
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

# The specification allows 100 MB. The largest RWKV needs 0.4 MB, and what is parsed costs several times its length.
MAX_HEADER_BYTES = 8 << 20
FORMATS_OF_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is for this reader. No magic, only a JSON object after 8 bytes."""
    return head[8:9] == b"{"


def read(path: Path) -> RawFile:
    """The tensors of one file, as views, and its "__metadata__".

    Raises ModelFileError for a damaged or cut-off file and for dtypes other than F32, F16 and BF16.
    """
    data = map_file(path)
    header, body = _split(path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: its __metadata__ is not a map of text to text")
    ranges = {name: _byte_range(path, name, entry) for name, entry in header.items()}
    _check_cover(path, ranges, len(body))
    tensors = {name: _tensor(name, header[name], body[begin:end]) for name, (begin, end) in ranges.items()}
    return RawFile(path, "safetensors", tensors, metadata)


def _split(path: Path, data: NDArray[np.uint8]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The parsed header, and the bytes after it."""
    if len(data) < 8:
        raise ModelFileError(f"{path}: is cut off: {len(data)} bytes, expected at least the 8 of the header length")
    size = int.from_bytes(data[:8].tobytes(), "little")
    if size > MAX_HEADER_BYTES:
        raise ModelFileError(f"{path}: claims a header of {size} bytes, expected at most {MAX_HEADER_BYTES}")
    if 8 + size > len(data):
        raise ModelFileError(f"{path}: is cut off: its header should have {size} bytes, the file has {len(data) - 8}")
    try:
        return parse_object(data[8 : 8 + size].tobytes()), data[8 + size :]
    except JsonRefused as error:
        raise ModelFileError(f"{path}: its header {error}") from None


def _byte_range(path: Path, name: str, entry: object) -> tuple[int, int]:
    """Begin and end of a tensor in the data, checked against its shape and dtype."""
    where = f"{path}: tensor {quoted(name)}"
    if not isinstance(entry, dict) or entry.keys() != ENTRY_FIELDS:
        raise ModelFileError(f"{where} is not described by dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in FORMATS_OF_DTYPES:
        raise ModelFileError(f"{where} has dtype {quoted(entry['dtype'])}, expected F32, F16 or BF16")
    if problem := shape_problem(entry["shape"]):
        raise ModelFileError(f"{where} {problem}")
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise ModelFileError(f"{where} has data_offsets that are not two numbers")
    begin, end = offsets
    expected = int(np.prod(entry["shape"], dtype=np.int64)) * FLOAT_STORAGE[FORMATS_OF_DTYPES[entry["dtype"]]].itemsize
    if begin < 0 or end - begin != expected:
        raise ModelFileError(
            f"{where} of {entry['dtype']} {entry['shape']} has data_offsets [{begin}, {end}], expected {expected} bytes"
        )
    return begin, end


def _check_cover(path: Path, ranges: dict[str, tuple[int, int]], size: int) -> None:
    """The tensors follow one another from the first data byte to the last."""
    at = 0
    for name, (begin, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin != at:
            problem = "overlaps the one before it" if begin < at else f"leaves a hole of {begin - at} bytes before it"
            raise ModelFileError(f"{path}: tensor {quoted(name)} {problem}")
        at = end
    if at != size:
        problem = "is cut off" if at > size else "has bytes that belong to no tensor"
        raise ModelFileError(f"{path}: {problem}: its tensors take {at} bytes, the file has {size} after the header")


def _tensor(name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> Tensor:
    return float_tensor(name, FORMATS_OF_DTYPES[entry["dtype"]], tuple(entry["shape"]), data)
