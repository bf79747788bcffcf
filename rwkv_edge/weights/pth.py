"""PyTorch checkpoints (.pth, .pt, pytorch_model.bin): a zip of stored entries, one of them a pickle, memory-mapped.

<top>/data.pkl describes a dictionary of tensors, <top>/data/<key> holds the numbers of one storage, <top>/byteorder
their byte order. Source: torch/serialization.py (`_save`) and caffe2/serialize/inline_container.h.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import map_file
from rwkv_edge.weights.raw import RawFile, shape_problem
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor
from rwkv_edge.weights.torch_pickle import PickleRefused, StoredTensor, interpret
from rwkv_edge.weights.zip_directory import ZipEntry, read_directory, stored_bytes

MAX_PICKLE_BYTES = 16 << 20  # a checkpoint of the largest RWKV has half a megabyte
FORMATS_OF_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# Training frameworks put the model under one of these.
NESTED = ("state_dict", "model", "module", "model_state_dict")

ZIP_MAGIC = b"PK\3\4"
LEGACY_PICKLE_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch 0.4 to 1.5
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257  # torch before 0.4


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` (512 bytes or the whole file) is for this reader."""
    return head.startswith(ZIP_MAGIC) or _is_legacy(head)


def read(path: Path) -> RawFile:
    """The tensors of a checkpoint, as views; numbers and texts beside them become metadata.

    Raises ModelFileError for a file from before PyTorch 1.6, a damaged one, or one that holds anything but a dictionary
    of float32, float16 or bfloat16 tensors.
    """
    data = map_file(path)
    if _is_legacy(bytes(data[:512])):
        raise ModelFileError(
            f"{path}: is in PyTorch's format from before version 1.6; convert it with a current PyTorch:"
            " torch.save(torch.load(path, weights_only=True), new_path)"
        )
    entries = read_directory(path, data)
    top = _top_folder(path, entries)
    order = entries.get(f"{top}byteorder")
    if order is not None and bytes(stored_bytes(path, data, order)[:8]) != b"little":
        raise ModelFileError(f"{path}: its byteorder is not little, the only one that is read here")
    contents = _interpret(path, data, entries[f"{top}data.pkl"])
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for name, value in _named_values(path, contents):
        if isinstance(value, StoredTensor):
            entry = entries.get(f"{top}data/{value.storage.key}")
            if entry is None:
                missing = f"its numbers (entry data/{quoted(value.storage.key)}) are missing"
                raise ModelFileError(f"{path}: tensor {quoted(name)}: {missing}")
            tensors[name] = _tensor(path, name, value, stored_bytes(path, data, entry))
        elif isinstance(value, str | int | float | bool):
            metadata[name] = value
    return RawFile(path, "pth", tensors, metadata)


def _is_legacy(head: bytes) -> bool:
    return head.startswith(LEGACY_PICKLE_MAGIC) or head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == TAR_MAGIC


def _top_folder(path: Path, entries: dict[str, ZipEntry]) -> str:
    """The folder that holds data.pkl, with its slash."""
    tops = [name.removesuffix("data.pkl") for name in entries if f"/{name}".endswith("/data.pkl")]
    if len(tops) != 1:
        raise ModelFileError(f"{path}: is a zip archive with {len(tops)} data.pkl; a PyTorch checkpoint has 1")
    return tops[0]


def _interpret(path: Path, data: NDArray[np.uint8], entry: ZipEntry) -> Any:
    if entry.size > MAX_PICKLE_BYTES:
        raise ModelFileError(f"{path}: its data.pkl has {entry.size} bytes, expected at most {MAX_PICKLE_BYTES}")
    try:
        return interpret(bytes(stored_bytes(path, data, entry)))
    except PickleRefused as error:
        raise ModelFileError(f"{path}: its pickle {error}") from None


def _named_values(path: Path, contents: Any) -> Iterator[tuple[str, Any]]:
    """The model's dictionary: the whole, or the one that a training framework put beside its own entries."""
    if not isinstance(contents, dict):
        raise ModelFileError(f"{path}: holds a {type(contents).__name__}, expected a dictionary of tensors")
    if not _has_tensors(contents):
        contents = next((contents[key] for key in NESTED if _has_tensors(contents.get(key))), {})
    if not contents:
        raise ModelFileError(f"{path}: holds no dictionary of tensors")
    for name, value in contents.items():
        if not isinstance(name, str):
            raise ModelFileError(f"{path}: a tensor is named by the number {name}, expected a name")
        yield name, value


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, StoredTensor) for item in value.values())


def _tensor(path: Path, name: str, stored: StoredTensor, storage: NDArray[np.uint8]) -> Tensor:
    """The window that `stored` describes on the bytes of its storage."""
    where = f"{path}: tensor {quoted(name)}"
    format = FORMATS_OF_DTYPES.get(stored.dtype)
    if format is None:
        raise ModelFileError(f"{where} has dtype {stored.dtype or 'unknown'}, expected float32, float16 or bfloat16")
    if problem := shape_problem(stored.shape):
        raise ModelFileError(f"{where} {problem}")
    if len(stored.strides) != len(stored.shape) or not all(type(n) is int and 0 <= n < 1 << 62 for n in stored.strides):
        raise ModelFileError(f"{where} has strides that do not fit its shape {list(stored.shape)}")
    dtype = FLOAT_STORAGE[format]
    declared = stored.storage.size * (dtype.itemsize if stored.storage.dtype else 1)
    if stored.storage.size < 0 or declared > len(storage):
        raise ModelFileError(f"{where}: its storage should have {declared} bytes, the file holds {len(storage)}")
    if 0 in stored.shape:
        return Tensor(name, stored.shape, format, storage[:0].view(dtype).reshape(stored.shape))
    last = stored.offset + sum((n - 1) * stride for n, stride in zip(stored.shape, stored.strides, strict=True))
    if stored.offset < 0 or (last + 1) * dtype.itemsize > declared:
        raise ModelFileError(f"{where} of shape {list(stored.shape)} reaches outside its storage of {declared} bytes")
    if _overlaps_itself(stored.shape, stored.strides):
        # Otherwise a few bytes could claim to be terabytes, and any copy of them would be.
        raise ModelFileError(f"{where} repeats its numbers (strides {list(stored.strides)}), expected each stored once")
    strides = tuple(n * dtype.itemsize for n in stored.strides)
    start = stored.offset * dtype.itemsize
    window: NDArray[Any] = np.ndarray(stored.shape, dtype, storage, start, strides)
    return Tensor(name, stored.shape, format, window)


def _overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two places may be the same number; never so for transposed and sliced parts of a dense tensor."""
    reach = 0
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += (n - 1) * stride
    return False
