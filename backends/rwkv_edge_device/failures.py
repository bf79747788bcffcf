"""Whatever a device's library raises, as one sentence."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rwkv_edge.errors import BackendError

Failure = Literal["memory", "lost", "other"]


@contextmanager
def explained(device: str, what: str, kind_of: Callable[[Exception], Failure], forget: Callable[[], None]) -> Iterator[None]:
    """Raises BackendError for any exception inside.

    what: goes on from the device's name, such as "did not run the kernels".  forget: called for a device that is lost.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        kind = kind_of(error)
        if kind == "memory":
            raise BackendError(f"{device} is out of memory: it {what}") from error
        if kind == "lost":
            forget()
            raise BackendError(f"{device} was lost; open the model again, or use the cpu backend") from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(f"{device} {what}: {text[:200]}") from error
