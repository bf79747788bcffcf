"""Devices that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rwkv_edge.device.found import Found

T = TypeVar("T")


class OpenDevices(Generic[T]):
    """open: makes what a backend keeps of an open device."""

    def __init__(self, open: Callable[[Found], T]) -> None:
        self._open = open
        self._lock = threading.Lock()
        self._opened: dict[str, T] = {}

    def get(self, device: Found) -> T:
        """Opens it unless it is open."""
        with self._lock:
            if device.describe() not in self._opened:
                self._opened[device.describe()] = self._open(device)
            return self._opened[device.describe()]

    def forget(self, opened: T) -> None:
        """The next model opens the device anew: this one is lost."""
        with self._lock:
            for name in [name for name, each in self._opened.items() if each is opened]:
                del self._opened[name]
