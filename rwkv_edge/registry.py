"""Backends by entry point: what is installed, what it says of itself, what can work here, and why the rest cannot.

The core names no backend: each is found through the entry-point group `rwkv_edge.backends`, so another one is a pip install.
"""
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from rwkv_edge.backend import Availability, Backend, Traits
from rwkv_edge.errors import BackendError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "rwkv_edge.backends"


def installed() -> "dict[str, EntryPoint]":
    """Name -> entry point, without importing any of them."""
    return dict(_installed(tuple((folder, _changed(folder)) for folder in sys.path)))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


@cache
def _installed(folders: tuple[tuple[str, int], ...]) -> "dict[str, EntryPoint]":
    """On this path as it is now: each look takes milliseconds, and there are some in every start."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> Backend:
    """The backend called `name`, whether or not it can work here. Raises BackendError when it is unknown or does not import, or
    what it loads to is no backend."""
    points = installed()
    if name not in points:
        known = ", ".join(sorted(points)) or "none: is rwkv-edge installed with pip?"
        raise BackendError(f"no backend is called {name!r}; installed are: {known}")
    try:
        backend: Backend = points[name].load()
        is_one = isinstance(backend, Backend) and isinstance(backend.traits, Traits) and type(backend.traits.rank) is int
    except (Exception, SystemExit) as error:  # a third party's package may fail in any way, or end the process
        command = _install_command(points[name]) if isinstance(error, ImportError) else ""
        raise BackendError(f"backend {name!r} cannot be imported: {type(error).__name__}: {error}{command}") from error
    if not is_one:
        raise BackendError(f"backend {name!r} is none: {points[name].value} is not a rwkv_edge.backend.Backend")
    return backend


def _install_command(point: "EntryPoint") -> str:
    """": pip install ..." where the distribution that offers the backend has an extra of its name."""
    extras = point.dist.metadata.get_all("Provides-Extra") or () if point.dist else ()
    return f": pip install '{point.dist.name}[{point.name}]'" if point.dist and point.name in extras else ""


def usable(name: str) -> Backend:
    """The backend called `name`, ready to compile. Raises BackendError with its own reason when it cannot work here."""
    backend = load(name)
    found = _asked(backend)
    if not found.available:
        raise BackendError(f"backend {name!r} cannot work here: {found.reason}")
    return backend


def availability(name: str) -> Availability:
    """Whether `name` can work here, as a value instead of an exception."""
    try:
        return _asked(load(name))
    except BackendError as error:
        return Availability(False, str(error))


def _asked(backend: Backend) -> Availability:
    try:
        found = backend.availability()
    except (Exception, SystemExit) as error:  # a third party's, as above
        return Availability(False, f"it fails when asked whether it can: {type(error).__name__}: {error}")
    if not isinstance(found, Availability):
        return Availability(False, f"it does not say whether it can, but {found!r:.40}")
    return found


def traits(name: str) -> Traits:
    """What the backend called `name` says of itself; nothing out of the ordinary where it cannot be loaded."""
    try:
        return load(name).traits
    except BackendError:
        return Traits()


def definition() -> Backend:
    """The backend that others are tested against. Raises BackendError where none is installed."""
    for name in installed():
        if traits(name).definition:
            return load(name)
    raise BackendError("no backend that defines the ops is installed: is rwkv-edge installed with pip?")
