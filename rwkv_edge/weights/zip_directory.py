"""Where the entries of a zip archive lie in a mapped file. Nothing is decompressed, copied or checksummed.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5 (zip64). `zipfile` is not used because it reads the directory at
whatever size the file claims and opens entries through a file object, where a memory map needs their place.
"""
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import prefetch

MAX_ENTRIES = 100_000  # the largest RWKV has about 3000 tensors
MAX_COMMENT = 0xFFFF
STORED = 0
ENCRYPTED = 1  # flag bit 0
ZIP64_EXTRA = 1  # header id of the extra field that holds 64-bit sizes

END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
IN_ZIP64 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file in the archive: `size` bytes at `start` of the file when `method` is STORED."""

    name: str
    method: int
    encrypted: bool
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Header:
    """What the directory says of an entry whose local header lies at `start`."""

    name: str
    method: int
    encrypted: bool
    start: int
    size: int


def read_directory(path: Path, data: NDArray[np.uint8]) -> dict[str, ZipEntry]:
    """Entry name -> place, in directory order. `data`: uint8, the whole file.

    Raises ModelFileError when the directory is damaged or cut off, an entry lies outside the file, or two overlap.
    """
    view = data.data
    start, size, count = _find_central_directory(path, view)
    if count > MAX_ENTRIES:
        raise ModelFileError(f"{path}: claims {count} zip entries, expected at most {MAX_ENTRIES}")
    headers: dict[str, _Header] = {}
    entries: dict[str, ZipEntry] = {}
    extents: list[tuple[int, int, str]] = []
    at, end = start, start + size
    for _ in range(count):
        if at + CENTRAL.size > end:
            raise ModelFileError(f"{path}: the zip directory ends after {len(headers)} of {count} entries")
        header, at = _central_entry(path, view, at, end)
        if header.name in headers:
            raise ModelFileError(f"{path}: has two zip entries named {quoted(header.name)}")
        headers[header.name] = header
    prefetch(data, ((header.start, LOCAL.size + len(header.name.encode())) for header in headers.values()))
    for name, header in headers.items():
        entries[name] = _local_entry(path, view, header)
        extents.append((header.start, entries[name].start + entries[name].size, name))
    extents.sort()
    for i, (_, stop, name) in enumerate(extents):
        if stop > (extents[i + 1][0] if i + 1 < len(extents) else start):
            raise ModelFileError(f"{path}: zip entry {quoted(name)} overlaps what follows it")
    return entries


def stored_bytes(path: Path, data: NDArray[np.uint8], entry: ZipEntry) -> NDArray[np.uint8]:
    """The bytes of an entry as a view; it must be stored, not compressed."""
    if entry.encrypted or entry.method != STORED:
        how = "encrypted" if entry.encrypted else f"compressed (zip method {entry.method})"
        raise ModelFileError(f"{path}: zip entry {quoted(entry.name)} is {how}, expected plain bytes")
    return data[entry.start : entry.start + entry.size]


def _find_central_directory(path: Path, view: memoryview) -> tuple[int, int, int]:
    """Its offset, size in bytes and number of entries."""
    tail_start = max(0, len(view) - END.size - MAX_COMMENT)
    tail = bytes(view[tail_start:])
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if at + END.size <= len(tail):
            _, disk, first_disk, _, count, size, start, comment = END.unpack_from(tail, at)
            if at + END.size + comment == len(tail):
                break
        at = tail.rfind(b"PK\5\6", 0, at)
    else:
        raise ModelFileError(f"{path}: is cut off: the zip directory at its end is missing")
    end_start = limit = tail_start + at
    locator_start = end_start - END64_LOCATOR.size
    if locator_start >= 0 and bytes(view[locator_start : locator_start + 4]) == b"PK\6\7":
        _, _, limit, _ = END64_LOCATOR.unpack_from(view, locator_start)
        if limit + END64.size > locator_start or bytes(view[limit : limit + 4]) != b"PK\6\6":
            raise ModelFileError(f"{path}: the zip64 directory record is not where the file says it is")
        _, _, _, _, disk, first_disk, _, count, size, start = END64.unpack_from(view, limit)
    if disk or first_disk:
        raise ModelFileError(f"{path}: is one part of a zip archive in several files")
    if start + size > limit:
        raise ModelFileError(f"{path}: the zip directory is not where the file says it is")
    return start, size, count


def _central_entry(path: Path, view: memoryview, at: int, end: int) -> tuple[_Header, int]:
    """What the directory record at `at` says, and where the next record is."""
    record = CENTRAL.unpack_from(view, at)
    magic, flags, method, start = record[0], record[3], record[4], record[16]
    packed, size, name_size, extra_size, comment_size = record[8:13]
    name_start = at + CENTRAL.size
    extra_start = name_start + name_size
    next_record = extra_start + extra_size + comment_size
    if magic != b"PK\1\2" or next_record > end:
        raise ModelFileError(f"{path}: the zip directory is damaged at byte {at}")
    raw_name = bytes(view[name_start:extra_start])
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: the zip directory has a name that is not UTF-8 at byte {name_start}") from None
    wide = _zip64_extra(bytes(view[extra_start : extra_start + extra_size]))
    size, packed, start = (wide.pop(0) if n == IN_ZIP64 and wide else n for n in (size, packed, start))
    if start + LOCAL.size > len(view):
        raise ModelFileError(f"{path}: zip entry {quoted(name)} starts outside the file")
    if method == STORED and packed != size:
        raise ModelFileError(f"{path}: zip entry {quoted(name)} is stored as {packed} bytes but should have {size}")
    return _Header(name, method, bool(flags & ENCRYPTED), start, packed), next_record


def _local_entry(path: Path, view: memoryview, header: _Header) -> ZipEntry:
    """The entry with its place, which only the local header tells."""
    magic, _, _, _, _, _, _, _, _, name_size, extra_size = LOCAL.unpack_from(view, header.start)
    name_start = header.start + LOCAL.size
    start = name_start + name_size + extra_size
    if magic != b"PK\3\4" or bytes(view[name_start : name_start + name_size]) != header.name.encode():
        raise ModelFileError(f"{path}: zip entry {quoted(header.name)} is not where the directory says it is")
    if start + header.size > len(view):
        raise ModelFileError(f"{path}: zip entry {quoted(header.name)} has {header.size} bytes, more than the file holds")
    return ZipEntry(header.name, header.method, header.encrypted, start, header.size)


def _zip64_extra(extra: bytes) -> list[int]:
    """The zip64 extra field: those of size, packed size and header offset that did not fit, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + size]
        if kind == ZIP64_EXTRA:
            return [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
        at += 4 + size
    return []
