"""What this machine's processor is called."""
import platform
from contextlib import suppress
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NAMES = ("model name", "Model", "Hardware")  # x86; the board, as the Raspberry Pi and others have it


def cpu_name() -> str:
    with suppress(OSError):
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in _lines())}
        for name in NAMES:
            if found.get(name):
                return found[name]
    return platform.processor() or platform.machine() or "CPU"


def _lines() -> list[str]:
    return CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
