"""Backends by the names that strategies have for them."""
import warnings

from rwkv_edge import registry
from rwkv_edge.backend import Backend, HasDevices, ReadsInPlace
from rwkv_edge.errors import BackendError, StrategyError
from rwkv_edge.strategy.grammar import ELSEWHERE, Part
from rwkv_edge.strategy.notices import FallbackWarning


def backends_for(parts: tuple[Part, ...]) -> list[Backend]:
    """For each part with a device; equal parts get the same object. Raises BackendError where one cannot work here."""
    found: dict[tuple[str | None, str | None], Backend] = {}
    for part in parts:
        name = part.device, part.which
        if name not in found:
            found[name] = _replacement(part) if part.device in ELSEWHERE else choose_backend(part)
    if replaced := {part.device: found[part.device, part.which].name for part in parts if part.device in ELSEWHERE}:
        told = ", ".join(f"{device} is {name} on this machine" for device, name in replaced.items())
        warnings.warn(told, FallbackWarning, stacklevel=4)
    return [found[part.device, part.which] for part in parts]


def choose_backend(part: Part) -> Backend:
    """The backend that a part names, or the best one here. Raises BackendError when it cannot work."""
    if part.device is None:
        return registry.best()
    backend = registry.usable(part.device)
    if part.which is None:
        return backend
    if not isinstance(backend, HasDevices):
        raise StrategyError(f"{part.device} has no devices to choose from, got {part.which!r}")
    return backend.select(part.which)


def _replacement(part: Part) -> Backend:
    """A GPU where there is one that `auto` could take, else the best. A number or name is another machine's: not looked at."""
    candidates = list(registry.candidates())
    return next((backend for backend in candidates if isinstance(backend, HasDevices)), candidates[0])


def reader_in_place() -> Backend:
    """The best backend here that can stream layers from a file."""
    for backend in registry.candidates():
        if isinstance(backend, ReadsInPlace):
            return backend
    raise BackendError("no backend here can stream layers from a file")
