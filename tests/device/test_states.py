"""A state is in one place at a time, and never lost."""
import gc

import numpy as np
import pytest
from rwkv_edge_device.states import Seats

from rwkv_edge.errors import BackendError
from tests.device.fake import FakeDriver

SIZE = 6


def states(count: int) -> list[np.ndarray]:
    return [np.arange(SIZE, dtype=np.float32) + 10 * i for i in range(count)]


def on_device(seats: Seats, offset: int) -> np.ndarray:
    return seats.memory.view(np.float32)[offset : offset + SIZE]


def test_a_state_is_copied_once_and_fetched_when_asked_for() -> None:
    driver = FakeDriver()
    seats = Seats(driver, SIZE)
    (state,) = states(1)
    (at,) = seats.take([state])
    assert seats.take([state]) == [at]
    assert driver.moved == 1
    on_device(seats, at)[:] = 7
    seats.fetch(state, release=False)
    assert (state == 7).all()
    on_device(seats, at)[:] = 8
    seats.fetch(state, release=True)
    assert (state == 8).all()
    state[:] = 9  # the host's again: the next run takes it
    (at,) = seats.take([state])
    assert (on_device(seats, at) == 9).all()


def test_states_that_were_never_here_are_left_alone() -> None:
    seats = Seats(FakeDriver(), SIZE)
    (state,) = states(1)
    seats.fetch(state, release=True)
    assert state.tolist() == list(range(SIZE))


def test_more_seats_are_made_and_the_states_move_there() -> None:
    seats = Seats(FakeDriver(), SIZE)
    a, b, c = states(3)
    (at,) = seats.take([a])
    on_device(seats, at)[:] = 5
    places = seats.take([a, b, c])
    assert len(set(places)) == 3
    assert (on_device(seats, places[0]) == 5).all()
    assert on_device(seats, places[2]).tolist() == c.tolist()


def test_sequences_that_take_turns_stay() -> None:
    driver = FakeDriver()
    seats = Seats(driver, SIZE)
    a, b, c = states(3)
    for state in (a, b, c):
        seats.take([state])
    moved = driver.moved
    for state in (a, b, c, b, a):
        seats.take([state])
    assert driver.moved == moved


def test_a_device_without_room_for_more_keeps_what_it_has() -> None:
    class Full(FakeDriver):
        def allocate(self, nbytes: int, what: str) -> np.ndarray:
            if nbytes > 64:
                raise BackendError("no room")
            return super().allocate(nbytes, what)

    seats = Seats(Full(), SIZE)
    a, b, c = states(3)
    on_device(seats, seats.take([a])[0])[:] = 1
    seats.take([b])
    seats.take([c])
    assert (seats.count, seats.most) == (2, 2)
    assert (a == 1).all()
    assert (on_device(seats, seats.take([a])[0]) == 1).all()
    with pytest.raises(BackendError, match="3 states at once"):
        seats.take([a, b, c])


def test_the_state_that_was_used_least_recently_makes_room() -> None:
    seats = Seats(FakeDriver(binding=64), SIZE)  # of 8 numbers: two seats
    assert seats.most == 2
    a, b, c = states(3)
    seats.take([a, b])
    on_device(seats, seats.take([a])[0])[:] = 1
    on_device(seats, seats.take([b])[0])[:] = 2
    seats.take([a])
    seats.take([c])
    assert (b == 2).all()
    assert (on_device(seats, seats.take([a])[0]) == 1).all()


def test_the_seat_of_a_state_that_is_gone_is_free() -> None:
    driver = FakeDriver(binding=64)
    seats = Seats(driver, SIZE)
    for _ in range(10):
        seats.take(states(2))
        gc.collect()
    assert driver.allocated.count("states") <= 2


def test_all_can_be_fetched() -> None:
    seats = Seats(FakeDriver(), SIZE)
    a, b = states(2)
    for at in seats.take([a, b]):
        on_device(seats, at)[:] = 3
    seats.fetch_all()
    assert (a == 3).all()
    assert (b == 3).all()


def test_a_state_that_no_binding_holds() -> None:
    with pytest.raises(BackendError, match="state"):
        Seats(FakeDriver(binding=16), SIZE)
