"""The CPU backend's threads: several executables at once, fork, interrupts, failures, and letting go."""
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rwkv_edge_cpu import backend
from rwkv_edge_cpu.run.cores import allowed_cpus
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge import Model
from rwkv_edge.backend import CompileOptions
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.errors import BackendError
from tests.cpu.plans import batch, deep_plan

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)

PLAN = deep_plan()
(EXPECTED,) = numpy_backend.compile(PLAN).run(batch(PLAN))


def right(executable: object) -> bool:
    return np.allclose(executable.run(batch(PLAN))[0], EXPECTED, rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]


def helpers() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("rwkv-edge-")}


def wait_until_gone(threads: set[threading.Thread]) -> None:
    end = time.monotonic() + 10
    while threads & helpers() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads & helpers()


def test_more_threads_than_cpus_are_right_and_not_stuck() -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=4 * len(allowed_cpus()) + 1))
    assert all(right(executable) for _ in range(3))
    executable.close()


def test_two_executables_run_at_once_from_two_threads() -> None:
    executables = [backend.compile(PLAN, CompileOptions(threads=2)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda e: all(right(e) for _ in range(30)), executables))
    for executable in executables:
        executable.close()


def test_one_executable_serves_several_threads_in_turn() -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=2))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: right(executable), range(40)))
    executable.close()


def test_close_ends_the_threads_and_may_be_called_twice() -> None:
    before = helpers()
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    ours = helpers() - before
    assert len(ours) == 2
    executable.close()
    executable.close()
    wait_until_gone(ours)
    with pytest.raises(BackendError):
        executable.run(batch(PLAN))


def test_an_executable_that_nobody_holds_ends_its_threads() -> None:
    before = helpers()
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    ours = helpers() - before
    del executable
    gc.collect()
    wait_until_gone(ours)


def test_between_steps_no_cpu_is_used() -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    start = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - start < 0.1
    executable.close()


def test_a_failure_in_a_worker_is_raised_and_the_next_run_works(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    walk = executable._walk  # type: ignore[attr-defined]

    def failing(*args: int) -> int:
        if args[5] == 1:
            raise MemoryError("worker 1")
        return int(walk(*args))

    executable._walk = failing  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="worker 1"):
        executable.run(batch(PLAN))
    executable._walk = walk  # type: ignore[attr-defined]
    assert right(executable)
    executable.close()


def test_an_interrupt_in_the_caller_leaves_nobody_waiting() -> None:
    before = helpers()
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    walk = executable._walk  # type: ignore[attr-defined]

    def interrupted(*args: int) -> int:
        if args[5] == 0:
            raise KeyboardInterrupt
        return int(walk(*args))

    executable._walk = interrupted  # type: ignore[attr-defined]
    ours = helpers() - before
    with pytest.raises(KeyboardInterrupt):
        executable.run(batch(PLAN))
    wait_until_gone(ours)
    executable._walk = walk  # type: ignore[attr-defined]
    assert right(executable)
    executable.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_executable_works_in_a_forked_child_and_still_in_the_parent() -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=3))
    assert right(executable)
    child = os.fork()
    if child == 0:
        os._exit(0 if right(executable) and right(executable) else 1)
    assert wait_for_child(child) == 0
    assert right(executable)
    executable.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_a_run_does_not_lock_up_the_child() -> None:
    executable = backend.compile(PLAN, CompileOptions(threads=2))
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            executable.run(batch(PLAN))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if right(executable) else 1)
            assert wait_for_child(child) == 0
    finally:
        stop.set()
        busy.join()
    executable.close()


def wait_for_child(pid: int) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hung")


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "raise KeyboardInterrupt", "executable.close()", "del executable"])
def test_the_interpreter_ends_without_waiting_for_threads(ending: str) -> None:
    program = f"""
import sys
from rwkv_edge.backend import CompileOptions
from rwkv_edge_cpu import backend
from tests.cpu.plans import batch, deep_plan
plan = deep_plan(2)
executable = backend.compile(plan, CompileOptions(threads=3))
executable.run(batch(plan))
{ending}
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, check=False)
    assert (done.returncode == 0) == (ending != "raise KeyboardInterrupt"), done.stderr.decode()


def test_the_same_tokens_give_the_same_bits_whoever_took_part() -> None:
    with Model(MODEL_PATH, "cpu", threads=2, sparse=False) as model:
        _, state = model.forward([1, 2, 3])
        first, *others = [model.forward([4], state.copy())[0] for _ in range(20)]
    for logits in others:
        np.testing.assert_array_equal(logits, first)
