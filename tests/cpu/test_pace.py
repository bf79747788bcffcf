"""Fewer threads while others need the cores, all of them again afterwards."""
import numpy as np
import pytest
from rwkv_edge_cpu import backend
from rwkv_edge_cpu.run.pace import LONGEST_REST, Pace

from rwkv_edge.backend import CompileOptions
from tests.cpu.plans import batch, deep_plan

QUIET, BUSY = (0.0, 0.01), (0.03, 0.01)  # waited, elapsed


def steps_until(pace: Pace, workers: int, step: tuple[float, float], most: int = 1000) -> int:
    for n in range(most):
        if pace.workers == workers:
            return n
        pace.step_done(*step)
    raise AssertionError(f"still {pace.workers} workers after {most} steps")


def test_one_slow_step_changes_nothing_and_a_few_leave_a_thread_out() -> None:
    pace = Pace(2)
    pace.step_done(*BUSY)
    assert pace.workers == 2
    assert steps_until(pace, 1, BUSY) <= 3


def test_all_come_back_when_it_is_quiet_again() -> None:
    pace = Pace(4)
    steps_until(pace, 1, BUSY)
    assert steps_until(pace, 4, QUIET) <= 3 * LONGEST_REST / 0.01 + 3


def test_trials_on_a_busy_machine_are_rare_and_short() -> None:
    pace, with_two = Pace(2), 0
    for _ in range(1000):
        with_two += pace.workers == 2
        pace.step_done(*(BUSY if pace.workers == 2 else QUIET))
    assert with_two < 60


def test_short_waits_leave_all_at_work() -> None:
    for workers in (2, 3, 8):
        pace = Pace(workers)
        for _ in range(100):
            pace.step_done(0.15 * (workers - 1), 1.0)  # of each but the last to come
        assert pace.workers == workers


@pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)
def test_results_are_the_same_whatever_the_pace() -> None:
    plan = deep_plan()
    executable = backend.compile(plan, CompileOptions(threads=3))
    (expected,) = executable.run(batch(plan))
    for workers in (1, 3, 2, 1, 2, 3):
        executable._paces[1].workers = workers  # type: ignore[attr-defined]
        np.testing.assert_array_equal(executable.run(batch(plan))[0], expected)
    executable.close()
