"""Backends by the names that strategies have for them."""
import warnings

from rwkv_edge import auto, registry
from rwkv_edge.backend import Backend, HasDevices, ReadsInPlace
from rwkv_edge.errors import BackendError, StrategyError
from rwkv_edge.strategy.grammar import ELSEWHERE, Part
from rwkv_edge.strategy.notices import FallbackWarning


def backends_for(parts: tuple[Part, ...]) -> list[Backend]:
    """For each part, which must name a device; equal parts get the same object. One warning tells where another is taken.

    Raises BackendError where one cannot work here, StrategyError where it has no such device.
    """
    found: dict[tuple[str | None, str | None], tuple[Backend, str]] = {}
    for part in parts:
        name = part.device, part.which
        if name not in found:
            found[name] = _chosen(part)
    if told := dict.fromkeys(told for _, told in found.values() if told):
        warnings.warn("; ".join(told), FallbackWarning, stacklevel=5)
    return [found[part.device, part.which][0] for part in parts]


def _chosen(part: Part) -> tuple[Backend, str]:
    """What runs a part, and what is to be told where that is not what it names."""
    assert part.device is not None
    if part.device in ELSEWHERE:
        backend = _gpu_or_best()
        return backend, f"{part.device} is {backend.name} on this machine"
    try:
        backend = registry.usable(part.device)
    except BackendError:
        if (name := _stand_in(part.device)) is None:
            raise
        reason = registry.availability(part.device).reason
        return _on_device(registry.usable(name), part), f"{part.device} is {name} on this machine: {reason}"
    return _on_device(backend, part), ""


def _stand_in(device: str) -> str | None:
    """The name of a backend that says it computes in this one's place."""
    return next((name for name, traits in auto.ranked().items() if device in traits.stands_in_for), None)


def _on_device(backend: Backend, part: Part) -> Backend:
    """The backend on the device that the part chooses, if it does."""
    if part.which is None:
        return backend
    if not isinstance(backend, HasDevices):
        raise _wrong(part, f"{part.device} has no devices to choose from, got {part.which!r}")
    try:
        return backend.select(part.which)
    except BackendError as error:
        raise _wrong(part, str(error)) from error


def _wrong(part: Part, problem: str) -> StrategyError:
    return part.quote.wrong(problem) if part.quote else StrategyError(problem)


def _gpu_or_best() -> Backend:
    """A GPU where there is one that `auto` could take, else the best. A number or name is another machine's: not looked at."""
    candidates = list(auto.candidates())
    return next((backend for backend in candidates if backend.traits.needs_device), candidates[0])


def reader_in_place() -> Backend:
    """The best backend here that can stream layers from a file."""
    for backend in auto.candidates():
        if isinstance(backend, ReadsInPlace):
            return backend
    raise BackendError("no backend here can stream layers from a file")
