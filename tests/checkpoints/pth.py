"""Writes PyTorch checkpoints without PyTorch: the zip and the pickle that `torch.load` reads, byte by byte.

`torch.load(path, weights_only=True)` and `mmap=True` read these files (checked with PyTorch 2.13).
"""
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints.tiny import Checkpoint, bf16_bits

STORAGES = {"f32": "FloatStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage"}
ALIGNMENT = 64
WIDE = 0xFFFFFFFF  # in a 32-bit field: the number is in the zip64 record


def stored(array: NDArray[np.float32], dtype: str) -> bytes:
    """The numbers of `array`, row-major, as `dtype` ("f32", "f16", "bf16") in a file."""
    if dtype == "bf16":
        return bf16_bits(array).astype("<u2").tobytes()
    return array.astype({"f32": "<f4", "f16": "<f2"}[dtype]).tobytes()


def write_pth(path: Path, checkpoint: Checkpoint, dtype: str = "bf16") -> Path:
    """`checkpoint` as torch.save would write a dictionary of tensors; returns `path`."""
    windows = {
        name: Window(str(i), dtype, array.size, 0, array.shape, contiguous_strides(array.shape))
        for i, (name, array) in enumerate(checkpoint.items())
    }
    storages = {str(i): stored(array, dtype) for i, array in enumerate(checkpoint.values())}
    path.write_bytes(checkpoint_bytes(program(windows), storages))
    return path


@dataclass(frozen=True)
class Window:
    """A tensor in a pickle: which storage, and how it lies there (offset and strides in elements)."""

    key: str
    dtype: str
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


# Pickle instructions, protocol 2; what torch.save emits, less its memo.
def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def global_name(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


EMPTY_ORDERED_DICT = call(global_name("collections", "OrderedDict"))


def dictionary(items: Iterable[tuple[bytes, bytes]], empty: bytes = b"}") -> bytes:
    return empty + b"(" + b"".join(key + value for key, value in items) + b"u"


def tensor(window: Window) -> bytes:
    storage_class = global_name("torch", STORAGES.get(window.dtype, window.dtype))
    reference = tuple_of(text("storage"), storage_class, text(window.key), text("cpu"), integer(window.storage_size))
    return call(
        global_name("torch._utils", "_rebuild_tensor_v2"),
        reference + b"Q",
        integer(window.offset),
        tuple_of(*map(integer, window.shape)),
        tuple_of(*map(integer, window.strides)),
        b"\x89",
        EMPTY_ORDERED_DICT,
    )


def program(windows: dict[str, Window], empty: bytes = b"}") -> bytes:
    """The pickle of a dictionary of tensors; empty: b"}" for a dict, EMPTY_ORDERED_DICT for an OrderedDict."""
    return pickled(dictionary(((text(name), tensor(window)) for name, window in windows.items()), empty))


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def checkpoint_bytes(pickle: bytes, storages: dict[str, bytes]) -> bytes:
    """The archive around a pickle and its storages."""
    entries = [ZipEntry("model/data.pkl", pickle), ZipEntry("model/byteorder", b"little")]
    entries += [ZipEntry(f"model/data/{key}", data) for key, data in storages.items()]
    return zip_bytes([*entries, ZipEntry("model/version", b"3\n")])


@dataclass(frozen=True)
class ZipEntry:
    """One entry. size, offset: what its headers claim, where that is not the truth."""

    name: str
    data: bytes = field(repr=False)
    method: int = 0
    flags: int = 0
    size: int | None = None
    offset: int | None = None


def zip_bytes(entries: Iterable[ZipEntry], zip64: bool = False) -> bytes:
    """A zip archive of stored entries whose data starts at multiples of 64 bytes, as PyTorch pads them."""
    entries = list(entries)
    body, directory = bytearray(), bytearray()
    for entry in entries:
        start = len(body)
        local, central = headers(entry, start, zip64)
        body += local + entry.data
        directory += central
    return bytes(body + directory + end_records(len(body), len(directory), len(entries), zip64))


def headers(entry: ZipEntry, start: int, zip64: bool = False, length: int | None = None) -> tuple[bytes, bytes]:
    """Local header, padded so that the data is aligned, and directory record of an entry that starts at `start`.

    zip64: all sizes and the offset in the zip64 record, not only those that do not fit, as PyTorch does.
    length: the bytes of data that will follow, where `entry.data` is not them.
    """
    name = entry.name.encode()
    padding = -(start + 30 + len(name) + 4) % ALIGNMENT
    extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    crc = zlib.crc32(entry.data) if length is None else 0
    size = entry.size if entry.size is not None else len(entry.data) if length is None else length
    offset = start if entry.offset is None else entry.offset
    common = (entry.flags, entry.method, 0, 33, crc)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, *common, size, size, len(name), len(extra)) + name + extra
    numbers = (size, size, offset)
    wide = [n for n in numbers if zip64 or n >= WIDE]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, packed, offset = (WIDE if zip64 else min(n, WIDE) for n in numbers)
    record = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, *common, packed, size, len(name), len(extra), 0, 0, 0, 0, offset
    )
    return local, record + name + extra


def end_records(start: int, size: int, count: int, zip64: bool = False) -> bytes:
    """What follows a directory of `size` bytes that begins at `start`."""
    if not zip64 and start < WIDE:
        return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, start, 0)
    return (
        struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
        + struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )
