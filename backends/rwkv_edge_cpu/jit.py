"""Compile functions with Numba, once per machine: the result is kept in our own cache directory (see cache.py).

A kernel is compiled when its address is first asked for, so a model pays for the ops and formats that it uses.
"""
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba import types

from rwkv_edge.errors import BackendError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_cpu import isa
from rwkv_edge_cpu.cache import cache_directory

# Sums may be taken in any order. Never nnan or ninf: a NaN in a model file must reach the logits.
REDUCTION = frozenset({"reassoc", "contract"})
ELEMENTWISE = frozenset({"contract"})

KERNEL_SIGNATURE = types.void(*[types.int64] * 5)  # record, frame, scratch: addresses; begin, end: which units of the op
DECODE_SIGNATURE = types.void(*[types.int64] * 7)  # source, stride_out, stride_in, rows, n, target, target_stride

_lock = threading.RLock()  # numba.config belongs to the whole process


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@dataclass(eq=False)
class Kernel:
    """A function that compiled code calls by address. Defined with `kernel` or `decoder`."""

    function: Callable[..., None]
    signature: Any
    fastmath: frozenset[str]
    _compiled: Any = field(default=None, repr=False)

    @property
    def address(self) -> int:
        """Of the machine code; compiles or loads it first."""
        if self._compiled is None:
            self._compiled = compiled(numba.cfunc, self.function, self.signature, self.fastmath)
        return int(self._compiled.address)


def kernel(fastmath: frozenset[str] = ELEMENTWISE) -> Callable[[Callable[..., None]], Kernel]:
    """Decorates f(record, frame, scratch, begin, end), which does units `begin` to `end` of an op."""
    return lambda function: Kernel(function, KERNEL_SIGNATURE, fastmath)


def decoder(function: Callable[..., None]) -> Kernel:
    """Decorates f(source, stride_out, stride_in, rows, n, target, target_stride); see decode.py."""
    return Kernel(function, DECODE_SIGNATURE, ELEMENTWISE)


def specialized(template: Callable[..., None], format: str, **names: Any) -> Callable[..., None]:
    """The template as a function of its own for one weight format: BLOCK_SIZE, BLOCK_BYTES and `names` are its globals.

    It has its own name, because Numba's cache goes by qualified name.
    """
    size = FORMATS[format]
    names |= {"BLOCK_SIZE": size.block_size, "BLOCK_BYTES": size.block_bytes}
    function = FunctionType(template.__code__, template.__globals__ | names, f"{template.__name__}_{format}")
    function.__qualname__ = function.__name__
    function.__module__ = template.__module__
    return function


# For functions that kernels call: part of the caller, so a loop around them can become vector instructions.
inlined = numba.njit(forceinline=True, error_model="numpy", fastmath=set(ELEMENTWISE))


def compiled(
    make: Callable[..., Any], function: Callable[..., Any], signature: Any, fastmath: frozenset[str], **more: Any
) -> Any:
    """`make(signature, ...)(function)` with the cache, or without it where the cache fails: a full disk, a damaged file."""
    options = {"error_model": "numpy", "fastmath": set(fastmath), **more}
    with _lock:
        folder = _directory()
        for attempt in (folder, folder, None):
            try:
                with _numba_cache_at(attempt):
                    return make(signature, cache=attempt is not None, **options)(function)
            except Exception as error:
                if attempt is None:
                    reason = f"{type(error).__name__}: {error}"
                    raise BackendError(f"{function.__name__} cannot be compiled here: {reason}") from error
                _empty(attempt)  # a damaged file would fail every time
    raise AssertionError("unreachable")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.mkdir(mode=0o700)


@cache
def _directory() -> Path | None:
    return cache_directory(isa.chosen().name)


@contextmanager
def _numba_cache_at(folder: Path | None) -> Iterator[None]:
    """Within: functions decorated with cache=True are kept in `folder`. The host program's own Numba settings return after."""
    ours = {"CACHE_DIR": str(folder or ""), "CACHE_LOCATOR_CLASSES": ""}
    saved = {name: getattr(numba.config, name) for name in ours if hasattr(numba.config, name)}
    try:
        for name in saved:
            setattr(numba.config, name, ours[name])
        yield
    finally:
        for name, value in saved.items():
            setattr(numba.config, name, value)
