"""Backends by entry point: what is installed, what can work here, and why the rest cannot.

The core names no backend: each is found through the entry-point group `rwkv_edge.backends`, so another one is a pip install.
"""
from typing import TYPE_CHECKING

from rwkv_edge.backend import Availability, Backend
from rwkv_edge.errors import BackendError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "rwkv_edge.backends"


def installed() -> "dict[str, EntryPoint]":
    """Name -> entry point, without importing any of them."""
    from importlib.metadata import entry_points  # takes 15 ms, which `import rwkv_edge` does not need

    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> Backend:
    """The backend called `name`, whether or not it can work here. Raises BackendError when it is unknown or does not import."""
    points = installed()
    if name not in points:
        known = ", ".join(sorted(points)) or "none: is rwkv-edge installed with pip?"
        raise BackendError(f"no backend is called {name!r}; installed are: {known}")
    try:
        backend: Backend = points[name].load()
    except Exception as error:  # a third party's package may fail in any way
        command = _install_command(points[name]) if isinstance(error, ImportError) else ""
        raise BackendError(f"backend {name!r} cannot be imported: {type(error).__name__}: {error}{command}") from error
    return backend


def _install_command(point: "EntryPoint") -> str:
    """": pip install ..." where the distribution that offers the backend has an extra of its name."""
    extras = point.dist.metadata.get_all("Provides-Extra") or () if point.dist else ()
    return f": pip install '{point.dist.name}[{point.name}]'" if point.dist and point.name in extras else ""


def usable(name: str) -> Backend:
    """The backend called `name`, ready to compile. Raises BackendError with its own reason when it cannot work here."""
    backend = load(name)
    availability = backend.availability()
    if not availability.available:
        raise BackendError(f"backend {name!r} cannot work here: {availability.reason}")
    return backend


def availability(name: str) -> Availability:
    """Whether `name` can work here, as a value instead of an exception."""
    try:
        return load(name).availability()
    except BackendError as error:
        return Availability(False, str(error))
