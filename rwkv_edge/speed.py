"""How fast devices take a model's weights, one token at a time: what `auto` goes by.

A measurement runs a small model's worth of matrix products, each in a launch with a norm between. Figures are remembered for a
device, its driver and our version. Asking all drivers takes half a second, so the order that follows from them is remembered
too, until something changes that can be seen without asking. A driver may end the process that asks: this is remembered as
well, so that `auto` meets it once.
"""
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

import rwkv_edge
from rwkv_edge import findings, registry
from rwkv_edge.backend import Backend, Batch, Device, ListsDevices
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.quant.samples import random_matrix

logger = logging.getLogger("rwkv_edge.devices")
WIDTH, PRODUCTS = 2048, 14  # 62 MB: more than caches hold
LEAST_RUNS, SECONDS = 3, 0.3
UNFINISHED = (
    "a process that measured this machine's devices never finished, perhaps for a broken driver: nothing is measured, "
    "the CPU comes first; `rwkv-edge backends --measure` tries again"
)
DRIVER_FOLDERS = ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/etc/OpenCL/vendors")
DRIVER_SETTINGS = ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "RUSTICL_ENABLE", "VK_DRIVER_FILES", "VK_ICD_FILENAMES")
NVIDIA_DRIVER = "/proc/driver/nvidia/version"
PATIENCE = 120.0  # seconds in which another process may still be measuring


def order(names: Sequence[str], anew: bool = False) -> list[str]:
    """Backends by the speed of the device that each would take, fastest first; those that `auto` does not take stand last.

    Measures only where there is a choice, and not where a process that measured never came to an end: then as they are named.
    anew: whatever is remembered.
    """
    key = *names, *_surroundings()
    known = findings.recall("order", *key)  # or the time at which somebody began to find it out
    if not anew and isinstance(known, list) and sorted(known) == sorted(names):
        return known
    if not anew and isinstance(known, float) and time.time() - known > PATIENCE:
        logger.warning("%s", UNFINISHED)
        return list(names)
    if anew or not isinstance(known, float):
        findings.remember("order", time.time(), *key)
    ordered: list[str] = []  # for whoever comes after an exception: nothing is known
    try:
        rivals = [registry.load(name) for name in names if _automatic(name)]
        speeds = {backend.name: _first_speed(backend) for backend in rivals} if len(rivals) > 1 else {}
        ordered = sorted(names, key=lambda name: -speeds.get(name, 0.0))
    finally:
        findings.remember("order", ordered, *key)
    return ordered


def speed(backend: Backend, device: Device | None, anew: bool = False) -> float:
    """Bytes of weights a second. device: the one of its devices that the backend takes, where it lists them.

    anew: whatever is remembered.  Raises BackendError where it does not run.
    """
    key = rwkv_edge.__version__, backend.name, *((device.name, device.driver) if device else ())
    known = findings.recall("speed", *key)
    if anew or not isinstance(known, float):
        logger.info("measuring how fast %s is", device.name if device else backend.name)
        known = measure(backend)
        findings.remember("speed", known, *key)
    return known


def measure(backend: Backend) -> float:
    """Bytes of weights a second in the quickest of some steps of one token."""
    plan = _plan()
    nbytes = sum(tensor.data.nbytes for tensor in plan.weights() if tensor.format != "f32")
    executable = backend.compile(plan, sparse=False)
    try:
        state = np.zeros(plan.state_size, executable.state_dtype)
        batch = Batch(np.zeros(1, np.int32), [1], [state], np.zeros(0, np.int32))
        executable.run(batch)
        times: list[float] = []
        while len(times) < LEAST_RUNS or sum(times) < SECONDS:
            start = time.perf_counter()
            executable.run(batch)
            times.append(time.perf_counter() - start)
    finally:
        executable.close()
    return nbytes / min(times)


def _plan() -> Plan:
    rng = np.random.default_rng(0)
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    p = PlanBuilder()
    x = p.embed(random_matrix(rng, "f32", 1, WIDTH))
    for _ in range(PRODUCTS):
        x = p.matmul(p.layer_norm(x, ones, zeros, 1e-5), random_matrix(rng, "q8_0", WIDTH, WIDTH))
    return p.finish(x)


def _automatic(name: str) -> bool:
    availability = registry.availability(name)
    return availability.available and availability.automatic


def _first_speed(backend: Backend) -> float:
    """0 where it does not run."""
    with suppress(BackendError):
        return speed(backend, backend.devices()[0] if isinstance(backend, ListsDevices) else None)
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
