"""Where compiled code is kept between processes: a directory that is ours alone, or nowhere. Nothing here raises.

Loading from a cache runs what is in it, so a directory that another user (but root) could write is never used. Its name holds a
hash of all that compiled code depends on: sources, versions, the machine. Which of its instruction sets code is for, files say.
"""
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rwkv_edge import plan, quant
from rwkv_edge.machine import user_cache
from rwkv_edge_cpu.code.processor import identity

PREFIX = "cpu-"
ADMINISTRATOR = 0
KEPT, KEPT_FOR = 3, 7 * 24 * 3600.0  # older versions' directories: the newest few stay, and all younger than so many seconds


def cache_directory() -> Path | None:
    """The directory for code of this version, for this machine, made if need be; None: keep nothing.

    $RWKV_EDGE_CACHE, else the user's cache directory, else a private directory under the system's temporary one.
    """
    name = _version_name()
    if name is None:
        return None
    for base in _candidates():
        path = base / f"{PREFIX}{name}"
        if not (_make_private(base) and _make_private(path)):
            continue
        if _can_write(path):
            _prune(base, keep=path)
            return path
        if _has_files(path):  # of a read-only system, or made by its administrator: what is there can be used
            return path
    return None


def _version_name() -> str | None:
    parts = [version("numba"), version("llvmlite"), sys.version, identity()]
    digest = hashlib.sha256("\0".join(parts).encode())
    try:
        for source in _sources():
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    except OSError:  # a package in an archive
        return None
    return digest.hexdigest()[:16]


def _sources() -> list[Path]:
    """Of kernels and of the numbers that are compiled into them."""
    folders = Path(__file__).parents[1], Path(quant.__file__).parent
    return [source for folder in folders for source in sorted(folder.rglob("*.py"))] + [Path(plan.__file__)]


def _candidates() -> Iterator[Path]:
    yield from user_cache.candidates()
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        yield Path(tempfile.gettempdir()) / f"rwkv_edge-{owner}"
    except OSError:  # no temporary directory either
        return


def _make_private(path: Path) -> bool:
    """Whether `path` is, or now became, a real directory that only we can write, or only the administrator."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode):  # a link could lead anywhere
        return False
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid in (os.getuid(), ADMINISTRATOR) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _can_write(path: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
            file.flush()
        os.utime(path)  # in use: prune it last
    except OSError:
        return False
    return True


def _has_files(path: Path) -> bool:
    try:
        return any(path.iterdir())
    except OSError:
        return False


def _prune(base: Path, keep: Path) -> None:
    try:
        others = [(path.stat().st_mtime, path) for path in base.glob(f"{PREFIX}*") if path != keep]
    except OSError:
        return
    for modified, path in sorted(others, reverse=True)[KEPT:]:
        if time.time() - modified > KEPT_FOR:
            shutil.rmtree(path, ignore_errors=True)
