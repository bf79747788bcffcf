"""Functions of the system that compiled code calls, under our own names for them."""
import ctypes
import sys
from collections.abc import Callable
from typing import Any

YIELD = "rwkv_edge_yield"  # let another thread have this core
CLOCK = "rwkv_edge_clock"  # the clock that never goes back


def _windows() -> tuple[dict[str, Any], int]:
    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    ticks = ctypes.c_int64()
    kernel32.QueryPerformanceFrequency(ctypes.byref(ticks))
    return {YIELD: kernel32.SwitchToThread, CLOCK: kernel32.QueryPerformanceCounter}, ticks.value


def _posix() -> tuple[dict[str, Any], int]:
    libc = ctypes.CDLL(None)
    return {YIELD: libc.sched_yield, CLOCK: libc.clock_gettime}, 1_000_000_000


_FUNCTIONS, CLOCK_TICKS = _windows() if sys.platform == "win32" else _posix()  # ticks of CLOCK in a second


def _memory_functions() -> Any:
    return ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)


# LLVM makes calls of these from loops that fill or copy.
_MEMORY: dict[str, Callable[[], Any]] = {
    "memset": lambda: _memory_functions().memset,
    "memcpy": lambda: _memory_functions().memcpy,
    "memmove": lambda: _memory_functions().memmove,
    "memset_pattern16": lambda: _memory_functions().memset_pattern16,  # Apple's only
}


def known(name: str) -> bool:
    """Whether compiled code may call this."""
    return name in _FUNCTIONS or name in _MEMORY


def address_of(name: str) -> int:
    """Raises KeyError for an unknown name."""
    function = _FUNCTIONS[name] if name in _FUNCTIONS else _MEMORY[name]()
    return ctypes.cast(function, ctypes.c_void_p).value or 0
