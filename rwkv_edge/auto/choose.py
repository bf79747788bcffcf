"""What `auto` takes here, and who encodes weights."""
from collections.abc import Iterator

from rwkv_edge import registry
from rwkv_edge.auto.rank import ranked
from rwkv_edge.backend import Backend, Encoder, Encodes
from rwkv_edge.errors import BackendError


def candidates() -> Iterator[Backend]:
    """The backends that can work here, best first. Raises BackendError when there is none."""
    from rwkv_edge.auto import order  # who names a backend needs no measurements

    reasons, found = [], False
    for name in order.by_speed():
        try:
            backend = registry.usable(name)
        except BackendError as error:
            reasons.append(str(error))
            continue
        if backend.availability().automatic:
            found = True
            yield backend
    if not found:
        raise BackendError("no backend can work here: " + "; ".join(reasons))


def best() -> Backend:
    """What `auto` tries first."""
    return next(candidates())


def encoder() -> Encoder:
    """That of the backend here with the lowest rank that has one, else the definition in NumPy."""
    for name in ranked():
        if registry.availability(name).available and isinstance(backend := registry.load(name), Encodes):
            return backend.encode
    from rwkv_edge.quant.encode import encode as definition  # only those who make files need it

    return definition
