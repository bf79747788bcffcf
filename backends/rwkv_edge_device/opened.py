"""Devices that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rwkv_edge_device.found import Found

T = TypeVar("T")


class OpenDevices(Generic[T]):
    """open: makes what a backend keeps of an open device."""

    def __init__(self, open: Callable[[Found], T]) -> None:
        self._open = open
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, ...], T] = {}

    def get(self, device: Found) -> T:
        """Opens it unless it is open with the same features."""
        key = device.describe(), *device.features
        with self._lock:
            if key not in self._opened:
                self._opened[key] = self._open(device)
            return self._opened[key]

    def forget(self, opened: T) -> None:
        """The next model opens the device anew: this one is lost."""
        with self._lock:
            for key in [key for key, each in self._opened.items() if each is opened]:
                del self._opened[key]
