"""One line about the machine and the moment of a measurement."""
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from bench.background import summary


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Restrict this process and those it starts to so many cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def describe() -> str:
    """Asked for at the end of a measurement."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{processor()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}, {now}; {summary()}"


def processor() -> str:
    """Its name and the vector instructions that decide its speed."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = fields.get("model name") or fields.get("Model") or platform.machine()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    telling = [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "asimddp", "i8mm") if flag in flags]
    return f"{name} ({', '.join(telling)})" if telling else name
