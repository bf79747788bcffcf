"""Locks that survive a fork."""
import os
import threading
from collections.abc import Callable
from weakref import WeakSet


class Turns:
    """Who works with something takes turns by its `lock`, which a forked child finds free: nobody there would release it.

    reentrant: who has the lock may take it again.  in_child: called in a forked child; for what else is of no use there.
    """

    lock: "threading.Lock | threading.RLock"

    def __init__(self, *, reentrant: bool = False, in_child: Callable[[], object] | None = None) -> None:
        self._new, self._in_child = threading.RLock if reentrant else threading.Lock, in_child
        self.lock = self._new()
        _all.add(self)

    def renew(self) -> None:
        self.lock = self._new()
        if self._in_child is not None:
            self._in_child()


_all: WeakSet[Turns] = WeakSet()


def _renew_all() -> None:
    for turns in _all:
        turns.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
