"""How much memory a process may still take, and memory that begins at a cache line."""
import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHE_LINE = 64


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised memory that begins at a cache line."""
    raw = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -int(raw.__array_interface__["data"][0]) % CACHE_LINE
    return raw[start : start + nbytes]


def available_memory() -> int:
    """Bytes that this process could take before the system has to push out what others use; pages of files do not count."""
    return min([_of_system(), *_of_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _of_system() -> int:
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: its length, then load; total, available; and so on
        ctypes.windll.kernel32.GlobalMemoryStatusEx(status)
        return status[2]
    with suppress(OSError, KeyError, ValueError):
        return _numbers(Path("/proc/meminfo"))["MemAvailable:"] << 10
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)  # a guess: what is free is not what could be


def _of_groups(membership: Path, root: Path) -> list[int]:
    """What is left of the limits of our control group (version 2) and those around it."""
    found = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            if line.startswith("0::"):
                place = root / line[3:].lstrip("/")
                folders = [place, *place.parents]
                found += [_left(folder) for folder in folders[: len(folders) - len(root.parents)]]
    return [left for left in found if left is not None]


def _left(group: Path) -> int | None:
    with suppress(OSError, KeyError, ValueError):  # no such file, or a limit of "max"
        used = int((group / "memory.current").read_text()) - _numbers(group / "memory.stat")["file"]
        return max(0, int((group / "memory.max").read_text()) - used)
    return None


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name, a number and maybe a unit."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
