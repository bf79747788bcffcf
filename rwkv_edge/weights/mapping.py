"""A file's bytes as a read-only array, without reading them."""
import mmap
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import ModelFileError


def map_file(path: Path) -> NDArray[np.uint8]:
    """The whole file as uint8 [size], memory-mapped; it stays mapped as long as any view of it lives.

    Raises ModelFileError for a path that is missing, unreadable, empty, a directory or a special file such as a pipe.
    """
    try:
        # Without O_NONBLOCK the open itself waits for a pipe's other end, and the check below would come too late.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be opened: {_reason(path, error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "directory" if stat.S_ISDIR(status.st_mode) else "special file"
            raise ModelFileError(f"{path}: is a {kind}, expected a model file")
        if status.st_size == 0:
            raise ModelFileError(f"{path}: is empty, expected a model file")
        view = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError) as error:  # the last two: larger than a 32-bit address space
        raise ModelFileError(f"{path}: cannot be memory-mapped: {_reason(path, error)}") from error
    finally:
        os.close(descriptor)
    return np.frombuffer(view, np.uint8)


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "it is a directory"
    return str(getattr(error, "strerror", None) or error).lower()
