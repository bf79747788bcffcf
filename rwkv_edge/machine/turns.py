"""Locks that survive a fork."""
import os
import threading
from collections.abc import Callable
from weakref import ref


class Turns:
    """Who works with something takes turns by its `lock`, which a forked child finds free: nobody there would release it.

    reentrant: who has the lock may take it again.  in_child: called in a forked child; for what else is of no use there.
    """

    lock: "threading.Lock | threading.RLock"

    def __init__(self, *, reentrant: bool = False, in_child: Callable[[], object] | None = None) -> None:
        self._new, self._in_child = threading.RLock if reentrant else threading.Lock, in_child
        self.lock = self._new()
        _add(self)

    def renew(self) -> None:
        self.lock = self._new()
        if self._in_child is not None:
            self._in_child()


_all: list[ref[Turns]] = []  # no WeakSet: it would run code when one dies, and an interrupt there ends in a traceback
_adding = threading.Lock()


def _add(turns: Turns) -> None:
    with _adding:
        _all[:] = [*(known for known in _all if known() is not None), ref(turns)]


def _renew_all() -> None:
    global _adding
    _adding = threading.Lock()
    for known in _all:
        if (turns := known()) is not None:
            turns.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
