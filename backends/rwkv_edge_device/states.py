"""Which sequences' states lie on the device. While one does, the device's numbers are the true ones."""
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import BackendError
from rwkv_edge_device.allocation import aligned
from rwkv_edge_device.driver import Driver

Array = NDArray[np.float32]
MOST_SEATS = 64


class Seats:
    """Places for states in one device memory. A host array that has a seat is out of date until it is fetched.

    Arrays are known by identity and held weakly: the seat of one that is gone is free.
    `memory` changes when more seats are needed than there are.
    """

    def __init__(self, driver: Driver, state_size: int) -> None:
        self.driver, self.state_size = driver, state_size
        self.stride = max(aligned(state_size), 4)
        self.most = min(MOST_SEATS, driver.limits.binding // (4 * self.stride))
        if self.most < 1:
            raise BackendError(f"a state of {4 * state_size} bytes is more than {driver.name} can bind")
        self._guests: dict[int, tuple[weakref.ref[Array], int]] = {}  # id of the array -> itself, seat; oldest use first
        self.count = 1
        self.memory: Any = driver.allocate(4 * self.stride, "states")

    def take(self, states: Sequence[Array]) -> list[int]:
        """Where each state begins, in numbers; those that were not here are copied. At most `most` at a time."""
        if len(states) == len(self._guests) == 1 and (guest := self._guests.get(id(states[0]))) and guest[0]() is states[0]:
            return [self.stride * guest[1]]
        self._forget_the_dead()
        wanted = min(self.most, len({*self._guests, *map(id, states)}))
        if wanted > self.count:
            self._grow(wanted)
        if len(states) > self.count:
            raise BackendError(f"{self.driver.name} has no memory for {len(states)} states at once")
        for state in states:
            if (guest := self._guests.pop(id(state), None)) is not None:
                self._guests[id(state)] = guest
        absent = [state for state in states if id(state) not in self._guests]
        for state in absent:
            self._seat(state, self._free_seat())
        return [self.stride * self._guests[id(state)][1] for state in states]

    def _forget_the_dead(self) -> None:
        self._guests = {key: guest for key, guest in self._guests.items() if guest[0]() is not None}

    def fetch(self, state: Array, release: bool) -> None:
        """Bring the array up to date; with `release` the device forgets the state."""
        if not self.holds(state):
            return
        if self.state_size:
            self.driver.read(self.memory, 4 * self.stride * self._guests[id(state)][1], state)
        if release:
            del self._guests[id(state)]

    def holds(self, state: Array) -> bool:
        guest = self._guests.get(id(state))
        return guest is not None and guest[0]() is state

    def fetch_all(self) -> None:
        for array, _ in list(self._guests.values()):
            if (state := array()) is not None:
                self.fetch(state, release=True)
        self._forget_the_dead()

    def _free_seat(self) -> int:
        """One that nobody has, or that of the state that was used least recently."""
        taken = {seat for _, seat in self._guests.values()}
        for seat in range(self.count):
            if seat not in taken:
                return seat
        key, (array, seat) = next(iter(self._guests.items()))
        if (state := array()) is not None:
            self.fetch(state, release=True)
        self._guests.pop(key, None)
        return seat

    def _grow(self, count: int) -> None:
        """Make room for `count`; all states move along, or stay with the host where the device has no such room."""
        present = [state for array, _ in self._guests.values() if (state := array()) is not None]
        self.fetch_all()
        self.driver.free(self.memory)
        before, self.count = self.count, min(self.most, 1 << (count - 1).bit_length())
        try:
            self.memory = self.driver.allocate(4 * self.stride * self.count, "states")
        except BackendError:
            self.most = self.count = before
            self.memory = self.driver.allocate(4 * self.stride * self.count, "states")
            return
        for seat, state in enumerate(present):
            self._seat(state, seat)

    def _seat(self, state: Array, seat: int) -> None:
        if self.state_size:
            self.driver.write(self.memory, 4 * self.stride * seat, state)
        self._guests[id(state)] = weakref.ref(state), seat
