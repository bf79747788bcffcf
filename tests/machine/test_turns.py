"""A lock that a forked child finds free."""
import os
from weakref import getweakrefs, ref

import pytest

from rwkv_edge.machine.turns import Turns

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_child_finds_the_lock_free_and_its_parent_keeps_it(reentrant: bool) -> None:
    turns = Turns(reentrant=reentrant)
    turns.lock.acquire()
    if (child := os.fork()) == 0:
        os._exit(0 if turns.lock.acquire(blocking=False) else 1)
    assert exit_code(child) == 0
    assert turns.lock.acquire(blocking=False) == reentrant


def test_a_child_forgets_what_is_of_no_use_there() -> None:
    threads = ["of the parent"]
    turns = Turns(in_child=threads.clear)
    if (child := os.fork()) == 0:
        os._exit(len(threads))
    assert exit_code(child) == 0
    assert threads == ["of the parent"]
    del turns


def test_nothing_runs_when_one_dies_which_an_interrupt_could_hit() -> None:
    turns = Turns()
    assert all(known.__callback__ is None for known in getweakrefs(turns))
    dead = ref(turns)
    del turns
    assert dead() is None
    Turns()  # forgets it
