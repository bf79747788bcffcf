"""What `auto` takes here, and who encodes weights."""
from collections.abc import Iterator

from rwkv_edge import registry
from rwkv_edge.auto import order
from rwkv_edge.backend import Backend, Encoder, Encodes
from rwkv_edge.errors import BackendError

AUTO_ORDER = ("cpu", "webgpu", "opencl", "numpy")  # what `auto` tries; the last always last, the others by speed


def auto_order() -> tuple[str, ...]:
    """AUTO_ORDER by measured speed. What is not remembered takes seconds."""
    return (*order.by_speed(AUTO_ORDER[:-1]), AUTO_ORDER[-1])


def candidates() -> Iterator[Backend]:
    """The backends of AUTO_ORDER that can work here, best first. Raises BackendError when there is none."""
    reasons, found = [], False
    for name in auto_order():
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
    """The fastest here: that of the first backend of AUTO_ORDER that has one, else the definition in NumPy."""
    for name in AUTO_ORDER:
        if registry.availability(name).available and isinstance(backend := registry.load(name), Encodes):
            return backend.encode
    from rwkv_edge.quant.encode import encode as definition  # only those who make files need it

    return definition
