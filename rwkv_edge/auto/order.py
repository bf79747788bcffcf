"""The order in which `auto` tries backends: by the speed of their devices, measured once.

Asking all drivers takes half a second, so the order that follows from the figures is remembered too, until something changes
that can be seen without asking. A driver may end the process that asks: this is remembered as well, so that `auto` meets it
once.
"""
import logging
import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path

from rwkv_edge import registry
from rwkv_edge.auto.rank import ranked
from rwkv_edge.auto.speed import speed
from rwkv_edge.backend import Backend, ListsDevices
from rwkv_edge.errors import BackendError
from rwkv_edge.machine import findings

logger = logging.getLogger("rwkv_edge.devices")
UNFINISHED = (
    "a process that measured this machine's devices never finished, perhaps for a broken driver: nothing is measured, "
    "%s comes first; `rwkv-edge backends --measure` tries again"
)
DRIVER_FOLDERS = ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/etc/OpenCL/vendors")
DRIVER_SETTINGS = ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "RUSTICL_ENABLE", "VK_DRIVER_FILES", "VK_ICD_FILENAMES")
NVIDIA_DRIVER = "/proc/driver/nvidia/version"
PATIENCE = 120.0  # seconds in which another process may still be measuring


def by_speed(anew: bool = False) -> list[str]:
    """All that are installed, by the speed of the device that each would take, fastest first; behind these the ones that `auto`
    does not take, and then last resorts.

    Measures only where there is a choice, and not where a process that measured never came to an end: then as they are ranked.
    anew: whatever is remembered.
    """
    names = sorted(registry.installed())
    key = *names, *_surroundings()
    known = findings.recall("order", *key)  # or the time at which somebody began to find it out
    if not anew and isinstance(known, list) and sorted(known) == names:
        return known
    if not anew and isinstance(known, float) and time.time() - known > PATIENCE:
        ordered = list(ranked())
        logger.warning(UNFINISHED, next(iter(ordered), "nothing"))
        return ordered
    if anew or not isinstance(known, float):
        findings.remember("order", time.time(), *key)
    ordered = []  # for whoever comes after an exception: nothing is known
    try:
        backends = ranked()
        rivals = [name for name, traits in backends.items() if not traits.last_resort and _automatic(name)]
        speeds = {name: _first_speed(registry.load(name)) for name in rivals} if len(rivals) > 1 else {}
        ordered = sorted(backends, key=lambda name: (backends[name].last_resort, -speeds.get(name, 0.0)))
    finally:
        findings.remember("order", ordered, *key)
    return ordered


def _automatic(name: str) -> bool:
    availability = registry.availability(name)
    return availability.available and availability.automatic


def _first_speed(backend: Backend) -> float:
    """0 where it does not run."""
    try:
        return speed(backend, backend.devices()[0] if isinstance(backend, ListsDevices) else None)
    except BackendError:
        return 0.0
    except Exception as error:  # a third party's package may fail in any way
        logger.warning("the %s backend cannot be measured: %s: %s", backend.name, type(error).__name__, error)
        return 0.0


def _surroundings() -> tuple[str, ...]:
    """What is another when a package, a driver or a card is, as far as the file system shows it."""
    packages = [_stamp(Path(path)) for path in sys.path if path.endswith("-packages")]
    drivers = [_stamp(path) for folder in DRIVER_FOLDERS for path in _inside(Path(folder))]
    cards = [path.name for path in _inside(Path("/dev/dri"))]
    nvidia = ""
    with suppress(OSError):
        nvidia = Path(NVIDIA_DRIVER).read_text(encoding="utf-8")
    settings = [os.environ.get(name, "") for name in DRIVER_SETTINGS]
    return platform.release(), str(os.cpu_count()), *packages, *drivers, *settings, *cards, nvidia


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _stamp(path: Path) -> str:
    try:
        return f"{path} {path.stat().st_mtime_ns}"
    except OSError:
        return str(path)
