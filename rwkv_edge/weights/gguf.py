"""GGUF files, versions 2 and 3, whole or split: a memory-mapped reader that believes no number before checking it.

Format: the GGUF specification (docs/gguf.md in ggml) and llama.cpp's split files (gguf-split).
"""
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import map_file
from rwkv_edge.quant.formats import BY_GGML_TYPE, UNSUPPORTED_GGML_TYPES
from rwkv_edge.weights.raw import RawFile, float_tensor
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
LARGEST_ALIGNMENT = 1 << 20
MOST_RECORDS = 1 << 16  # metadata entries, and tensors: an RWKV of 61 layers has about 2000
MOST_ITEMS = 1 << 20  # of an array: four times the largest vocabulary in use
LONGEST_NAME = 256  # bytes; the specification allows tensor names of 64
MOST_AXES = 4
DEEPEST_ARRAY = 4

# Value types of the metadata.
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"), 1: np.dtype("i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is for this reader."""
    return head.startswith(MAGIC)


def read(path: Path) -> RawFile:
    """All tensors of the file, or of all parts of a split file whichever part `path` is; metadata of the first part.

    Raises ModelFileError.
    """
    part = _read_part(path)
    count = part.metadata.get("split.count", 1)
    if type(count) is not int or count <= 1:
        return part
    parts = [part if other == path else _read_part(other) for other in _parts(path, count)]
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        if part.metadata.get("split.no") != number or part.metadata.get("split.count") != count:
            raise ModelFileError(f"{part.path}: is not part {number + 1} of {count} of a split model, as its name says")
        for name in part.tensors:
            if name in tensors:
                raise ModelFileError(f"{part.path}: tensor {quoted(name)} is in another part of the split model too")
        tensors |= part.tensors
    expected = parts[0].metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise ModelFileError(f"{path}: the {count} parts hold {len(tensors)} tensors, expected {quoted(str(expected))}")
    return replace(parts[0], path=path, tensors=tensors)


def _parts(path: Path, count: int) -> Iterable[Path]:
    """The paths of all parts, in order."""
    name = _SPLIT_NAME.fullmatch(path.name)
    if name is None or int(name["count"]) != count:
        raise ModelFileError(f"{path}: is one of {count} parts, expected a name that ends in -00001-of-{count:05}.gguf")
    for number in range(1, count + 1):
        part = path.with_name(f"{name['stem']}-{number:05}-of-{count:05}.gguf")
        if not part.exists():
            raise ModelFileError(f"{path}: part {number} of {count}, {part.name}, is not beside it")
        yield part


@dataclass(slots=True)
class Cursor:
    """A place in a file's bytes. Every read says what is being read, for the error when the file ends before it."""

    path: Path
    view: memoryview
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.view) - self.at

    def fail(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {problem}")

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise self.fail(f"ends inside {what} (at byte {self.at}, {size} bytes expected, {self.left} left)")
        self.at += size
        return self.view[self.at - size : self.at]

    def number(self, form: struct.Struct, what: str) -> int:
        value: int = form.unpack(self.take(form.size, what))[0]
        return value

    def u32(self, what: str) -> int:
        return self.number(_U32, what)

    def u64(self, what: str) -> int:
        return self.number(_U64, what)

    def name(self, what: str) -> str:
        """The name of a key or tensor: it identifies, so it must be text and short."""
        length = self.u64(what)
        if length > LONGEST_NAME:
            raise self.fail(f"{what} is a name of {length} bytes, expected at most {LONGEST_NAME}")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is a name that is not UTF-8") from error

    def count(self, what: str, at_least: int, most: int) -> int:
        """How many records follow; each takes `at_least` so many bytes."""
        count = self.u64(f"the number of {what}")
        if count > most or count * at_least > self.left:
            raise self.fail(f"announces {count} {what} at byte {self.at - 8}, more than fit in the file or make sense")
        return count


def _read_part(path: Path) -> RawFile:
    bytes = map_file(path)
    cursor = Cursor(path, bytes.data)
    _check_head(cursor)
    n_tensors = cursor.count("tensors", 24, MOST_RECORDS)
    n_entries = cursor.count("metadata entries", 13, MOST_RECORDS)
    metadata = _read_metadata(cursor, n_entries)
    infos = [_read_info(cursor) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {quoted(str(alignment))}, expected a power of two")
    data_start = -(-cursor.at // alignment) * alignment
    _check_places(cursor, infos, data_start, alignment)
    tensors = {info.name: info.tensor(bytes, data_start) for info in infos}
    return RawFile(path, "gguf", tensors, metadata)


def _check_head(cursor: Cursor) -> None:
    if bytes(cursor.take(4, "the magic number")) != MAGIC:
        raise cursor.fail("does not begin with GGUF")
    version = cursor.u32("the version")
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise cursor.fail("is a big-endian GGUF file, expected a little-endian one")
    raise cursor.fail(f"has GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")


def _read_metadata(cursor: Cursor, n: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(n):
        key = cursor.name(f"the key of metadata entry {index}")
        if key in metadata:
            raise cursor.fail(f"has the metadata key {quoted(key)} twice")
        what = f"metadata {quoted(key)}"
        metadata[key] = _read_value(cursor, cursor.u32(f"the type of {what}"), what)
    return metadata


def _read_value(cursor: Cursor, kind: int, what: str, depth: int = 0) -> Any:
    """One value: an int, float, bool, str or list of these."""
    if kind == STRING:
        return _read_strings(cursor, 1, what)[0]
    if kind != ARRAY:
        return _read_numbers(cursor, kind, 1, what)[0]
    if depth == DEEPEST_ARRAY:
        raise cursor.fail(f"{what} has arrays nested deeper than {DEEPEST_ARRAY}")
    item = cursor.u32(what)
    smallest = 12 if item == ARRAY else 8 if item == STRING else NUMBERS[item].itemsize if item in NUMBERS else 1
    n = cursor.count(f"items of {what}", smallest, MOST_ITEMS)
    if item == STRING:
        return _read_strings(cursor, n, what)
    if item == ARRAY:
        return [_read_value(cursor, ARRAY, what, depth + 1) for _ in range(n)]
    return _read_numbers(cursor, item, n, what)


def _read_numbers(cursor: Cursor, kind: int, n: int, what: str) -> list[Any]:
    if kind == BOOL:
        return [byte != 0 for byte in cursor.take(n, what)]
    if kind not in NUMBERS:
        raise cursor.fail(f"{what} has the value type {kind}, expected 0 to 12")
    dtype = NUMBERS[kind]
    return list(np.frombuffer(cursor.take(n * dtype.itemsize, what), dtype).tolist())


def _read_strings(cursor: Cursor, n: int, what: str) -> list[str]:
    """Texts; bytes that are not UTF-8 become \\xNN, which is how vocabularies write such bytes.

    A vocabulary is 65536 of these, so the loop is a bare one.
    """
    view, at, size, length_at = cursor.view, cursor.at, len(cursor.view), _U64.unpack_from
    texts: list[str] = []
    for _ in range(n):
        if at + 8 > size or (end := at + 8 + length_at(view, at)[0]) > size:
            raise cursor.fail(f"ends inside {what} (at byte {at}, string {len(texts)} of {n})")
        texts.append(str(view[at + 8 : end], "utf-8", "backslashreplace"))
        at = end
    cursor.at = at
    return texts


@dataclass(frozen=True, slots=True)
class Info:
    """A tensor as the header announces it. shape: [rows, width], the reverse of the file's order."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int

    def tensor(self, bytes: NDArray[np.uint8], data_start: int) -> Tensor:
        start = data_start + self.offset
        data = bytes[start : start + self.nbytes]
        if self.format in FLOAT_STORAGE:
            return float_tensor(self.name, self.format, self.shape, data)
        return Tensor(self.name, self.shape, self.format, data.reshape(*self.shape[:-1], -1))


def _read_info(cursor: Cursor) -> Info:
    name = cursor.name("a tensor's name")
    what = f"tensor {quoted(name)}"
    n_axes = cursor.u32(what)
    if not 1 <= n_axes <= MOST_AXES:
        raise cursor.fail(f"{what} has {n_axes} axes, expected 1 to {MOST_AXES}")
    shape = tuple(reversed([cursor.u64(what) for _ in range(n_axes)]))
    if 0 in shape:
        raise cursor.fail(f"{what} has shape {list(shape)}, expected no empty axis")
    ggml_type, offset = cursor.u32(what), cursor.u64(what)
    format = BY_GGML_TYPE.get(ggml_type)
    if format is None:
        stored = UNSUPPORTED_GGML_TYPES.get(ggml_type, f"ggml type {ggml_type}")
        raise cursor.fail(f"{what} is stored as {stored}, which this engine does not read")
    try:
        return Info(name, shape, format.name, offset, format.nbytes(shape))
    except ValueError as error:
        raise cursor.fail(f"{what} has {error}") from error


def _check_places(cursor: Cursor, infos: list[Info], data_start: int, alignment: int) -> None:
    """Names differ, and every tensor's bytes lie in the file, aligned, and belong to it alone."""
    size = len(cursor.view) - data_start
    seen: set[str] = set()
    end, before = 0, ""
    for info in sorted(infos, key=attrgetter("offset")):
        what = f"tensor {quoted(info.name)}"
        if info.name in seen:
            raise cursor.fail(f"{what} is there twice")
        seen.add(info.name)
        if info.offset % alignment:
            raise cursor.fail(f"{what} lies at offset {info.offset}, expected a multiple of {alignment}")
        if info.offset + info.nbytes > size:
            raise cursor.fail(f"{what} ends {info.offset + info.nbytes - size} bytes after the end of the file")
        if info.offset < end:
            raise cursor.fail(f"{what} overlaps tensor {quoted(before)}")
        end, before = info.offset + info.nbytes, info.name
