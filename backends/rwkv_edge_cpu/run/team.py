"""Threads that run one step together, and sleep between steps."""
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

from rwkv_edge.errors import BackendError

Task = Callable[[int], object]  # task(worker): worker's part of a step


@dataclass(slots=True, eq=False)
class Board:
    """What the members of a team share. They hold this and not the team, so an abandoned team can be collected.

    generation: number of the step that `task` is.  seen: the last step that each helper has finished.
    """

    wake: list[SimpleQueue[None]]
    seen: list[int]
    task: Task | None = None
    generation: int = 0
    closed: bool = False
    error: BaseException | None = None
    on_error: Callable[[], None] = field(default=lambda: None)


def _help(board: Board, member: int) -> None:
    while True:
        board.wake[member].get()
        if board.closed:
            return
        # Being woken twice for a step is harmless: it is done once.
        generation, task = board.generation, board.task
        if board.seen[member] == generation:
            continue
        if task is None:  # the step ended before this member came: it must not be waited for
            board.seen[member] = generation
            continue
        try:
            task(member + 1)
        except BaseException as error:
            board.error = error
            board.on_error()
        finally:
            board.seen[member] = generation
            del task


def _wake(board: Board, count: int | None = None) -> None:
    for queue in board.wake[:count]:
        queue.put(None)


def _close(board: Board) -> None:
    """Let the helpers end."""
    board.closed = True
    _wake(board)


class Team:
    """The caller as worker 0 and `size - 1` helper threads, which wait in Python (no CPU) between steps.

    abort: makes every worker that is inside a step leave it soon; called when one of them fails or the caller is interrupted.
    """

    def __init__(self, size: int, abort: Callable[[], None]) -> None:
        helpers = range(size - 1)
        self.pid = os.getpid()
        self._abort = abort
        self._board = Board([SimpleQueue() for _ in helpers], [0 for _ in helpers], on_error=abort)
        # Runs once, for whoever comes first: the owner, the garbage collector or the end of the program.
        self.close = weakref.finalize(self, _close, self._board)
        self._threads = [
            threading.Thread(target=_help, args=(self._board, i), name=f"rwkv-edge-{i + 1}", daemon=True) for i in helpers
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException as error:
            self.close()
            if isinstance(error.__context__, KeyboardInterrupt):  # `start` is no good at being interrupted
                raise KeyboardInterrupt from error
            if isinstance(error, RuntimeError):
                raise BackendError(f"a thread could not be started: {error}; use fewer threads") from error
            raise

    def run(self, task: Task, workers: int) -> None:
        """task(0) here, task(1), ... in the first `workers - 1` helpers. An exception in any ends the step, and is raised here.

        A helper that was still awake may call task with a higher number, which must do nothing.
        """
        board = self._board
        try:
            board.task, board.error = task, None
            board.generation += 1
            _wake(board, workers - 1)
            task(0)
        except BaseException:
            self._abandon()
            raise
        finally:
            board.task = None
        if board.error is not None:
            self._abandon()
            raise BackendError(f"a worker thread failed: {board.error!r}") from board.error

    def _abandon(self) -> None:
        """Wait until no helper is inside the step any more."""
        board = self._board
        self._abort()
        _wake(board)
        while any(
            seen != board.generation and thread.is_alive()
            for seen, thread in zip(board.seen, self._threads, strict=True)
        ):
            time.sleep(0.0005)
