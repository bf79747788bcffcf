"""How many threads are worth having: the fast cores that this process may use, each counted once.

Threads on slow cores or on a core's second hardware thread hold the others up at every barrier, and matrices wait for
memory, which more threads do not make faster.
"""
import ctypes
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """At least 1. root: where /proc and /sys are."""
    cpus = allowed_cpus()
    if sys.platform == "darwin":
        return max(1, min(len(cpus), _apple_performance_cores() or len(cpus)))
    cores = one_of_each_core(fast_cpus(cpus, root), root)
    return max(1, int(min(len(cores), cpu_quota(root))))


def allowed_cpus() -> set[int]:
    """This process's affinity mask where the system has one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    count = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    return set(range(count or 1))


def fast_cpus(cpus: set[int], root: Path = ROOT) -> set[int]:
    """Those of the fastest kind among them; all of them where the system does not tell."""
    devices = root / "sys/devices"
    hybrid = cpus & cpu_list(_text(devices / "cpu_core/cpus"))  # Intel's performance cores; what else there is is slower
    if hybrid:
        return hybrid
    capacities = {cpu: _number(devices / f"system/cpu/cpu{cpu}/cpu_capacity") for cpu in cpus}  # ARM: 1024 is the fastest
    best = max(capacities.values(), default=0)
    # Cores that differ a little (a "prime" core and its siblings) work well together.
    return {cpu for cpu, capacity in capacities.items() if capacity >= 0.7 * best}


def one_of_each_core(cpus: set[int], root: Path = ROOT) -> set[int]:
    """Without the further hardware threads of cores that are in already."""
    kept: set[int] = set()
    for cpu in sorted(cpus):
        siblings = cpu_list(_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        if not siblings & kept:
            kept.add(cpu)
    return kept


def cpu_quota(root: Path = ROOT) -> float:
    """CPUs' worth of time that control groups (containers) grant this process; infinity: no limit."""
    return min(_quotas(root), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mount = root / "sys/fs/cgroup"
        if controllers == "":
            for group in _and_parents(mount, path):
                quota, _, period = _text(group / "cpu.max").strip().partition(" ")
                yield from _quota(quota, period)
        elif "cpu" in controllers.split(","):
            # Inside a container the path is often that of the machine outside; the mount's root is then our own group.
            for group in [*_and_parents(mount / "cpu", path), *_and_parents(mount / "cpu,cpuacct", path)]:
                yield from _quota(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _and_parents(mount: Path, path: str) -> Iterator[Path]:
    """A group and all that it is in: each may set a limit."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for n in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:n])


def _quota(quota: str, period: str) -> Iterable[float]:
    """[CPUs], or [] where there is no limit: "max", -1 or nothing."""
    with suppress(ValueError):
        if int(quota) > 0 and int(period) > 0:
            return [int(quota) / int(period)]
    return []


def cpu_list(text: str) -> set[int]:
    """{0, 2, 3} of "0,2-3"; empty for what is no such list."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return set()
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _apple_performance_cores() -> int:
    count, size = ctypes.c_int(0), ctypes.c_size_t(4)
    failed = ctypes.CDLL(None).sysctlbyname(b"hw.perflevel0.physicalcpu", ctypes.byref(count), ctypes.byref(size), None, 0)
    return 0 if failed else count.value
