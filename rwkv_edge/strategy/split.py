"""An executable made of several: each runs its stage of the model, and hands its rows to the next."""
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rwkv_edge.backend import Batch, Executable, HoldsStates, LimitsRuns
from rwkv_edge.errors import BackendError
from rwkv_edge.machine.mapping import read_ahead, release
from rwkv_edge.machine.turns import Turns
from rwkv_edge.strategy.cut import Stage

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """streamed: weights in a mapped file that are to be in memory only while the stage runs, and shortly before.
    looked_up: likewise, but only some rows are touched."""

    stage: Stage
    executable: Executable
    streamed: tuple[Array, ...] = ()
    looked_up: tuple[Array, ...] = ()

    @property
    def holds_states(self) -> bool:
        return isinstance(self.executable, HoldsStates)

    def read_ahead(self) -> None:
        for weights in self.streamed:
            read_ahead(weights)

    def release(self) -> None:
        for weights in (*self.streamed, *self.looked_up):
            release(weights)


class SplitExecutable:
    """See `rwkv_edge.backend.Executable` and `HoldsStates`. Owns the executables of its links.

    A stage without memory of its own works on its part of a sequence's array. For one that holds states on a device there is
    a copy of that part, by which the device knows the sequence; the array is brought up to date by `fetch`.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links
        self.state_dtype = links[0].executable.state_dtype
        self._held: dict[int, tuple[weakref.ref[Array], dict[int, Array]]] = {}  # id of the array -> itself, link -> copy
        self._turns = Turns(reentrant=True)
        self._closed = False
        for link in links:  # the system maps whole stretches of a file around the vectors that were read
            link.release()

    @property
    def tokens_per_run(self) -> int:
        """See `rwkv_edge.backend.LimitsRuns`. Where layers are streamed long runs are best: each reads all of them."""
        limits = [link.executable.tokens_per_run for link in self.links if isinstance(link.executable, LimitsRuns)]
        return sys.maxsize if any(link.streamed for link in self.links) else min(limits, default=sys.maxsize)

    def run(self, batch: Batch) -> list[Array]:
        """Raises what the stages' executables do: InputError, BackendError."""
        with self._turns.lock:
            if self._closed:
                raise BackendError("this executable is closed")
            self._forget_the_dead()
            rows: dict[int, Array] = {}
            for i, link in enumerate(self.links):
                self.links[(i + 1) % len(self.links)].read_ahead()
                states = [self._part(state, i) for state in batch.states]
                given = [rows[index] for index in link.stage.takes]
                results = link.executable.run(Batch(batch.tokens, batch.lengths, states, batch.outputs, given))
                rows |= zip(link.stage.gives, results, strict=True)
                link.release()
            return [rows[index] for index in self.links[-1].stage.gives]

    def fetch(self, state: Array, release: bool = True) -> None:
        """See `HoldsStates`; a state that is wholly in its array already stays as it is."""
        with self._turns.lock:
            held = self._held.get(id(state))
            if held is None or held[0]() is not state:
                return
            for i, part in held[1].items():
                executable = self.links[i].executable
                assert isinstance(executable, HoldsStates)
                executable.fetch(part, release)
                state[self.links[i].stage.state] = part
            if release:
                del self._held[id(state)]

    def close(self) -> None:
        """The states that are still on a device come back first."""
        with self._turns.lock:
            if self._closed:
                return
            self._closed = True
            for held, _ in list(self._held.values()):
                if (state := held()) is not None:
                    with suppress(BackendError):  # of a device that is lost: who asks for a state will be told
                        self.fetch(state)
            for link in self.links:
                link.executable.close()

    def _part(self, state: Array, i: int) -> Array:
        """What link i works on: a view of its part of the array, or the copy that its device knows."""
        link = self.links[i]
        view = state[link.stage.state]
        if not link.holds_states:
            return view
        held = self._held.get(id(state))
        if held is None or held[0]() is not state:
            held = self._held[id(state)] = weakref.ref(state), {}
        if i not in held[1]:
            held[1][i] = view.copy()
        return held[1][i]

    def _forget_the_dead(self) -> None:
        for key in [key for key, (state, _) in self._held.items() if state() is None]:
            del self._held[key]
