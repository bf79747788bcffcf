"""Writing a file so that it appears complete or not at all."""
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rwkv_edge.errors import OutputError


@contextmanager
def replacing(target: Path, size: int) -> Iterator[BinaryIO]:
    """A file to write, `size` bytes long in the end, that takes the place of `target` when the block ends well.

    Until then it is a temporary file beside `target`, which is deleted when anything goes wrong, an interrupt included; one
    whose process was killed outright, when `target` is written again.
    Raises OutputError: no such folder, not writable, disk full.
    """
    try:
        target = target.resolve()  # what a link points to is replaced, not the link
        if target.exists() and not target.is_file():
            what = "a directory" if target.is_dir() else "a special file"
            raise OutputError(f"{target}: is {what}, expected the name of a file to write")
        name = target.name[:200]
        temporary = target.with_name(f".{name}.{os.getpid()}.part")
        remove_abandoned(target.parent, re.escape(name))
        _check_space(target, size)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        _lock(descriptor)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {str(error.strerror).lower()}") from error
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {str(error.strerror or error).lower()}") from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)  # no longer there when all went well
    _sync_folder(target.parent)


def remove_abandoned(folder: Path, name: str = ".*") -> None:
    """Removes temporary files (of the file `name`, a regular expression) whose processes were killed.

    A living process holds a lock on its own (on Windows: has it open).
    """
    pattern = re.compile(rf"\.{name}\.\d+\.part", re.DOTALL)
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if pattern.fullmatch(path.name)]:
            descriptor = os.open(path, os.O_RDWR)
            try:
                abandoned = _lock(descriptor)
            finally:
                os.close(descriptor)
            if abandoned:
                path.unlink()


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours, until the descriptor is closed; Windows has none and needs none."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # taken, or a file system without locks
        return False
    return True


def _check_space(target: Path, size: int) -> None:
    import shutil  # slow to import

    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OutputError(f"{target}: needs {size / 1e6:.0f} MB, but the disk has {free / 1e6:.0f} MB free")


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power cut; not every system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
