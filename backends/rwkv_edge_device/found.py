"""The devices that a backend finds on this machine, and which of them is meant."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from rwkv_edge.backend import Executable
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Plan

ORDER = ("discrete", "integrated", "other", "software")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """name: the device's.  kind: one of ORDER.  driver: what else decides what it computes.  api: through what it is reached.

    handle: the backend's own.  memory: bytes, None where the driver does not tell.  features: see features.py; all that it
    offers, or those that are to be used.
    """

    name: str
    kind: str
    driver: str
    api: str
    handle: Any
    memory: int | None = None
    features: tuple[str, ...] = ()

    def without(self, *features: str) -> "Found":
        return replace(self, features=tuple(name for name in self.features if name not in features))

    def describe(self) -> str:
        return f"{self.name} ({self.kind}, {self.api})"


Compiler = Callable[[Found], Callable[[Plan], Executable]]  # of plans, for a device with the features that it says


def arranged(devices: Iterable[Found], worse_apis: Sequence[str] = ()) -> list[Found]:
    """Best first; one that several APIs offer only once, and those of one name told apart by numbers.

    worse_apis: offer what others offer too, with less that works.
    """
    ordered = sorted(devices, key=lambda device: (ORDER.index(device.kind), device.api in worse_apis))
    api_of: dict[str, str] = {}
    seen: dict[str, int] = {}
    kept = []
    for device in ordered:
        if api_of.setdefault(device.name, device.api) == device.api:
            seen[device.name] = nth = seen.get(device.name, 0) + 1
            kept.append(replace(device, name=f"{device.name} #{nth}") if nth > 1 else device)
    return kept


def choose(devices: Sequence[Found], which: str | None, noun: str) -> Found:
    """The best, the one with a number (from 0), or the first whose name contains `which`, else whose kind or API does.

    noun: what messages call a device.  Raises BackendError: no such one.
    """
    if which is None and devices:
        return devices[0]
    if which is not None and which.isdecimal() and int(which) < len(devices):
        return devices[int(which)]
    if which is not None and not which.isdecimal():
        named = (device for device in devices if which.casefold() in device.name.casefold())
        described = (device for device in devices if which.casefold() in device.describe().casefold())
        if device := next(chain(named, described), None):
            return device
    listed = ", ".join(f"{i}: {device.describe()}" for i, device in enumerate(devices))
    raise BackendError(f"no {noun} is {which!r}; there are {listed}")
