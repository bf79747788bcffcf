"""Memory that holds machine code. It is never given back: a thread may still be inside when the interpreter ends."""
import ctypes
import mmap
import sys


def place(code: bytes) -> int:
    """The address of a copy of `code` that can be executed, and no longer written. Raises OSError where that is forbidden."""
    size = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
    return (_place_windows if sys.platform == "win32" else _place_posix)(code, size)


def _place_posix(code: bytes, size: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "no memory for machine code")
    ctypes.memmove(address, code, len(code))
    if libc.mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "the system does not let this program make memory executable")
    _forget_old_instructions(address, size)
    return int(address)


def _forget_old_instructions(address: int, size: int) -> None:
    """ARM fetches instructions through a cache of their own. (x86 has no such function, and needs none.)"""
    if sys.platform == "darwin":
        ctypes.CDLL(None).sys_icache_invalidate(ctypes.c_void_p(address), ctypes.c_size_t(size))
        return
    try:
        clear = getattr(ctypes.CDLL("libgcc_s.so.1"), "__clear_cache")
    except (OSError, AttributeError):  # Linux itself does it when pages become executable
        return
    clear(ctypes.c_void_p(address), ctypes.c_void_p(address + size))


def _place_windows(code: bytes, size: int) -> int:
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel32.VirtualAlloc.restype = kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.VirtualAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32]
    kernel32.VirtualProtect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p]
    kernel32.FlushInstructionCache.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    commit_and_reserve, read_write, execute_read = 0x3000, 0x04, 0x20
    address = kernel32.VirtualAlloc(None, size, commit_and_reserve, read_write)
    if not address:
        raise OSError("no memory for machine code")
    ctypes.memmove(address, code, len(code))
    before = ctypes.c_uint32()
    if not kernel32.VirtualProtect(address, size, execute_read, ctypes.byref(before)):
        raise OSError("the system does not let this program make memory executable")
    kernel32.FlushInstructionCache(kernel32.GetCurrentProcess(), address, size)
    return int(address)
