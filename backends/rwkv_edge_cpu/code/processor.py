"""Which machine this is, as far as compiled code is concerned. Asking LLVM would mean loading it: 180 MB of library."""
import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

CPUINFO, ENOUGH = Path("/proc/cpuinfo"), 8192  # bytes: the first core's lines, at least
TELLING = {
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
}
FEATURES = {"flags", "Features"}
AT_HWCAP, AT_HWCAP2 = 16, 26
# What Numba itself looks at when it compiles for this machine.
NUMBA_SETTINGS = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")


@cache
def identity() -> str:
    """Differs between machines that need different code; the same again in every process on one machine."""
    settings = [os.environ.get(f"NUMBA_{name}", "") for name in NUMBA_SETTINGS]
    return "\n".join([sys.platform, platform.machine(), *settings, _from_linux() or _from_llvm()])


def _from_linux() -> str:
    """Of the first core; empty where this is no Linux, or /proc/cpuinfo does not tell."""
    if sys.platform != "linux":
        return ""
    try:
        with CPUINFO.open(errors="replace") as file:
            first = file.read(ENOUGH).partition("\n\n")[0]
    except OSError:
        return ""
    lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in TELLING]
    if not any(line.partition(":")[0].strip() in FEATURES for line in lines):
        return ""
    return "\n".join([*lines, *(f"{hardware_flags(kind):x}" for kind in (AT_HWCAP, AT_HWCAP2))])


def hardware_flags(kind: int) -> int:
    """What Linux tells a program about its core, emulated ones included."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    return int(getauxval(ctypes.c_ulong(kind)))


def _from_llvm() -> str:
    from llvmlite import binding

    return f"{binding.get_default_triple()} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
