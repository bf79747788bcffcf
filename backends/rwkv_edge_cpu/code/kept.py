"""What processes keep for each other in the cache directory, by name. A damaged or unreadable file is as good as none."""
import hashlib
import os
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from rwkv_edge_cpu.code.cache import cache_directory

MARK = b"rwkv_edge 1\n"
SUFFIX = ".kept"


@cache
def directory() -> Path | None:
    return cache_directory()


def read(name: str) -> bytes | None:
    """What was kept under this name: whole, as it was written, or None."""
    folder = directory()
    if folder is None:
        return None
    try:
        data = (folder / f"{name}{SUFFIX}").read_bytes()
    except OSError:
        return None
    begin = len(MARK) + hashlib.sha256().digest_size
    content = data[begin:]
    return content if data[:begin] == _head(name, content) else None


def write(name: str, content: bytes) -> None:
    """Readers see all of it or nothing."""
    folder = directory()
    if folder is None:
        return
    draft = folder / f"{name}.{os.getpid()}-{threading.get_ident()}"
    try:
        draft.write_bytes(_head(name, content) + content)
        draft.replace(folder / f"{name}{SUFFIX}")
    except OSError:  # a full disk, for instance
        with suppress(OSError):
            draft.unlink()


def _head(name: str, content: bytes) -> bytes:
    """Holds the name too: a file that was renamed is not what it says."""
    return MARK + hashlib.sha256(name.encode() + b"\0" + content).digest()
