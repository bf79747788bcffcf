"""How much memory there is, and how much a process may still take."""
import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Controllers as in /proc/self/cgroup: the files of a group's limit and use, and what in memory.stat can go at any time.
LIMITS = {
    "": ("memory.max", "memory.current", "file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
}


def available_memory() -> int:
    """Bytes that this process could take before the system has to push out what others use; pages of files do not count."""
    return min([_of_system(), *_of_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def total_memory() -> int:
    """Bytes of memory that the machine has."""
    if sys.platform == "win32":
        return _windows_status()[1]
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _windows_status() -> Sequence[int]:
    status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: its length, then load; total, available; and so on
    ctypes.windll.kernel32.GlobalMemoryStatusEx(status)  # type: ignore[attr-defined,unused-ignore]
    return list(status)


def _of_system() -> int:
    if sys.platform == "win32":
        return _windows_status()[2]
    with suppress(OSError, KeyError, ValueError):
        return _numbers(Path("/proc/meminfo"))["MemAvailable:"] << 10
    return total_memory() // 2  # a guess: what is free is not what could be


def _of_groups(membership: Path, root: Path) -> list[int]:
    """What is left of the limits of our control group and those around it, of version 2 and of 1."""
    found = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers in LIMITS:
                mount = root / controllers
                place = mount / path.lstrip("/")
                folders = [place, *place.parents]
                found += [_left(folder, *LIMITS[controllers]) for folder in folders[: len(folders) - len(mount.parents)]]
    return [left for left in found if left is not None]


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    with suppress(OSError, KeyError, ValueError):  # no such file, or a limit of "max"
        taken = int((group / used).read_text()) - _numbers(group / "memory.stat")[cache]
        return max(0, int((group / limit).read_text()) - taken)
    return None


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name, a number and maybe a unit."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
