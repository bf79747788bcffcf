"""A file's bytes: as a read-only array without reading them, or, for a small file, read. Only of regular files."""
import mmap
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError


def map_file(path: Path) -> NDArray[np.uint8]:
    """The whole file as uint8 [size], memory-mapped; it stays mapped as long as any view of it lives.

    Raises ModelFileError for a path that is missing, unreadable, empty, a directory or a special file such as a pipe.
    """
    descriptor, size = _open_regular(path, "a model file")
    try:
        if size == 0:
            raise ModelFileError(f"{path}: is empty, expected a model file")
        view = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError) as error:  # the last two: larger than a 32-bit address space
        raise ModelFileError(f"{path}: cannot be memory-mapped: {_reason(path, error)}") from error
    finally:
        os.close(descriptor)
    return np.frombuffer(view, np.uint8)


def prefetch(data: NDArray[np.uint8], places: Iterable[tuple[int, int]]) -> None:
    """Have the system read these (offset, size) of a mapped file, all together; only a hint, and in vain on Windows.

    Touching scattered bytes of a file not in memory costs, for each, the wait for the disk and megabytes of read-ahead.
    """
    view = data.base.obj if isinstance(data.base, memoryview) else data.base  # numpy has it either way
    if isinstance(view, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
        with suppress(OSError):  # a system without this hint
            for offset, size in places:
                start = offset // mmap.PAGESIZE * mmap.PAGESIZE
                view.madvise(mmap.MADV_WILLNEED, start, min(offset + size, len(data)) - start)


def release(data: NDArray[Any]) -> None:
    """Give back the memory that a view of a mapped file takes; it is read again when touched. Only a hint."""
    _advise(data, "MADV_DONTNEED")


def read_ahead(data: NDArray[Any]) -> None:
    """Have the system begin to read a view of a mapped file, in the background. Only a hint, and in vain on Windows."""
    _advise(data, "MADV_WILLNEED")


def is_mapped(data: NDArray[Any]) -> bool:
    """Whether this is a view of a mapped file."""
    return _mapping(data) is not None


def _mapping(data: NDArray[Any]) -> tuple[mmap.mmap, NDArray[Any]] | None:
    """The mapped file that `data` is a view of, and the array of all its bytes."""
    base: Any = data
    while isinstance(base, np.ndarray):
        base, whole = base.base, base
    view = base.obj if isinstance(base, memoryview) else base
    return (view, whole) if isinstance(view, mmap.mmap) else None


def _advise(data: NDArray[Any], advice: str) -> None:
    if data.size and hasattr(mmap, advice) and (found := _mapping(data)):
        view, whole = found
        reach = sum((n - 1) * stride for n, stride in zip(data.shape, data.strides, strict=True)) + data.itemsize
        first = data.ctypes.data - whole.ctypes.data
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        with suppress(OSError):
            view.madvise(getattr(mmap, advice), start, first - start + reach)


def read_small_file(path: Path, limit: int, expected: str) -> bytes:
    """The bytes of a file of at most `limit`; `expected` is what the user should have given ("a vocabulary file").

    Raises ModelFileError for a path that is missing, unreadable, larger, a directory or a special file such as a pipe.
    """
    descriptor, size = _open_regular(path, expected)
    try:
        with open(descriptor, "rb") as file:
            data = file.read(min(size, limit) + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {_reason(path, error)}, expected {expected}") from error
    if max(size, len(data)) > limit:
        raise ModelFileError(f"{path}: is larger than {limit} bytes, expected {expected}")
    return data


def _open_regular(path: Path, expected: str) -> tuple[int, int]:
    """A descriptor to read the file with, which the caller closes, and the file's size."""
    try:
        # Without O_NONBLOCK the open itself waits for a pipe's other end, and the check below would come too late.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be opened: {_reason(path, error)}, expected {expected}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "special file"
        raise ModelFileError(f"{path}: is a {kind}, expected {expected}")
    return descriptor, status.st_size


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "it is a directory"
    return str(getattr(error, "strerror", None) or error).lower()
