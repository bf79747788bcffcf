"""The commands of the next token are encoded while the device is at this one, and are of use only if nothing changed."""
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import BackendError, Model
from tests.conftest import need_backend


@pytest.fixture
def model(tiny_pth: Callable[[str], Path]) -> Iterator[Model]:
    need_backend("webgpu")
    with Model(tiny_pth("7"), "webgpu") as model:
        yield model


@pytest.fixture
def same(tiny_pth: Callable[[str], Path]) -> Iterator[Model]:
    """On NumPy."""
    with Model(tiny_pth("7"), "numpy") as model:
        yield model


@pytest.fixture
def events(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens from here on: "encode", "submit", "bring"."""
    from rwkv_edge_webgpu.commands import Launch
    from rwkv_edge_webgpu.staging import Staging

    happened: list[str] = []

    def noted(owner: Any, name: str, event: str) -> None:
        call = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            happened.append(event)
            return call(*arguments)

        monkeypatch.setattr(owner, name, noting)

    noted(Launch, "encoded", "encode")
    noted(type(driver_of(model).device.queue), "submit", "submit")
    noted(Staging, "bring", "bring")
    return happened


def driver_of(model: Model) -> Any:
    executable: Any = model._executable
    return executable.driver


def command_buffers() -> int:
    """Of this process, that wgpu-native holds."""
    from wgpu.backends.wgpu_native._helpers import generate_report

    gc.collect()
    hub: dict[str, dict[str, int]] = generate_report()["hub"]
    return hub["commandBuffers"]["allocated"]


def of_step(model: Model, events: list[str], state: Any) -> list[str]:
    events.clear()
    model.forward([1], state)
    return events.copy()


FIRST = ["encode", "submit", "bring"]
AGAIN = ["encode", "submit", "encode", "bring"]  # from here on the next one is expected
EXPECTED = ["submit", "encode", "bring"]


def test_what_came_twice_is_encoded_before_it_comes_again(model: Model, events: list[str]) -> None:
    state = model.new_state()
    ahead = driver_of(model).ahead
    assert of_step(model, events, state) == FIRST
    assert driver_of(model).ahead == ahead
    assert of_step(model, events, state) == AGAIN
    assert driver_of(model).ahead > ahead
    for _ in range(3):
        assert of_step(model, events, state) == EXPECTED


def a_prompt(model: Model, state: Any) -> None:
    model.forward([1, 2, 3], state)


def a_long_prompt(model: Model, state: Any) -> None:
    model.forward([1] * 300, state)


def a_batch(model: Model, state: Any) -> None:
    model.forward_batch([[1]] * 6, [state, *(model.new_state() for _ in range(5))])


@pytest.mark.parametrize("between", [a_prompt, a_long_prompt, a_batch])
def test_what_is_between_two_tokens_does_not_matter(model: Model, events: list[str], between: Callable[..., None]) -> None:
    state = model.new_state()
    between(model, state)
    for _ in range(3):
        model.forward([1], state)
    between(model, state)
    assert of_step(model, events, state) == EXPECTED


@pytest.mark.parametrize("between", [a_long_prompt, a_batch])
def test_unless_memory_moves_for_it(model: Model, events: list[str], between: Callable[..., None]) -> None:
    """That of the activations, or of the states."""
    state = model.new_state()
    for _ in range(3):
        model.forward([1], state)
    between(model, state)
    assert of_step(model, events, state) == FIRST
    assert of_step(model, events, state) == AGAIN


def test_a_state_that_is_read_between_tokens_does_not(model: Model, events: list[str]) -> None:
    state = model.new_state()
    for _ in range(3):
        model.forward([1], state)
        _ = state.data
    assert of_step(model, events, state) == EXPECTED


def test_a_larger_staging_buffer_does(model: Model, events: list[str]) -> None:
    """The commands copy to the one that there was."""
    state = model.new_state()
    for _ in range(3):
        model.forward([1], state)
    driver = driver_of(model)
    memory = driver.allocate(2 * driver._staging.nbytes, "a test")
    driver.read(memory, 0, np.empty(driver._staging.nbytes // 4 + 1, np.float32))
    assert of_step(model, events, state) == FIRST
    assert of_step(model, events, state) == AGAIN


def test_a_prompt_whose_logits_nobody_wants_is_not_expected(model: Model, events: list[str]) -> None:
    """There is nothing to wait for meanwhile."""
    from rwkv_edge.backend import Batch

    executable: Any = model._executable
    state = np.zeros(model.plan.state_size, np.float32)
    for _ in range(3):
        events.clear()
        executable.run(Batch(np.array([1, 2], np.int32), [2], [state], np.array([], np.int32)))
        assert events == ["encode", "submit"]


def test_sequences_that_come_and_go_have_their_own_numbers(model: Model, same: Model) -> None:
    """As on NumPy, whatever is between the tokens: other sequences, prompts that need more memory, batches, reading states."""
    ours, theirs = [model.new_state() for _ in range(3)], [same.new_state() for _ in range(3)]
    rng = np.random.default_rng(0)
    for _ in range(80):
        i, token, what = int(rng.integers(3)), int(rng.integers(1, 90)), rng.integers(12)
        tokens = [token] if what < 9 else [token] * int(rng.integers(2, 60))
        if what == 8:
            logits, _ = model.forward_batch([[token]] * 3, ours)
            expected, _ = same.forward_batch([[token]] * 3, theirs)
        elif what == 7:
            logits, expected = [ours[i].data.copy()], [theirs[i].data.copy()]
        else:
            logits, expected = [model.forward(tokens, ours[i])[0]], [same.forward(tokens, theirs[i])[0]]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_models_that_take_turns(tiny_pth: Callable[[str], Path], model: Model, same: Model) -> None:
    """On one device: each expects its own tokens."""
    with Model(tiny_pth("4"), "webgpu") as other, Model(tiny_pth("4"), "numpy") as same_other:
        pairs = [(each, each.new_state(), reference, reference.new_state())
                 for each, reference in ((model, same), (other, same_other))]
        for token in range(1, 9):
            for each, state, reference, its_state in pairs:
                logits, expected = each.forward([token], state)[0], reference.forward([token], its_state)[0]
                np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_one_is_kept_of_each_kind_however_often_they_take_turns(model: Model) -> None:
    before = command_buffers()
    state, states = model.new_state(), [model.new_state() for _ in range(3)]
    model.forward_batch([[1]] * 3, states)  # for which memory is moved
    for _ in range(5):
        for _ in range(3):
            model.forward([1], state)
        for _ in range(3):
            model.forward_batch([[1]] * 3, states)
        model.forward([1] * 5, state)
        model.forward([1] * 6, state)
    assert command_buffers() == before + 2


def test_commands_that_are_never_submitted_hold_no_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """wgpu-native does not free them, and with a buffer that they hold would stay the block of memory that it is in."""
    executable: Any = model._executable
    state, recordings = model.new_state(), []
    for between in (a_long_prompt, a_batch):
        for _ in range(3):
            model.forward([1], state)
        recordings.append(executable._recordings[True, 1, 1])
        between(model, state)
    destroyed: list[Any] = []
    buffer = type(recordings[0].words)
    destroy = buffer.destroy
    monkeypatch.setattr(buffer, "destroy", lambda self: (destroyed.append(self), destroy(self)))
    model.close()
    assert {recording.words for recording in recordings} <= set(destroyed)


def test_a_device_that_is_lost_before_they_are_submitted(tiny_pth: Callable[[str], Path], model: Model, same: Model) -> None:
    state = model.new_state()
    for _ in range(3):
        model.forward([1], state)
    driver_of(model).device.destroy()
    with pytest.raises(BackendError, match="was lost; open the model again"):
        model.forward([1], state)
    with Model(tiny_pth("7"), "webgpu") as again:
        for token in (1, 2, 3):
            np.testing.assert_allclose(again.forward([token])[0], same.forward([token])[0], atol=1e-4)


@pytest.mark.parametrize("tokens", [0, 1, 2, 5])
def test_a_launch_that_the_device_refuses(model: Model, same: Model, tokens: int) -> None:
    """Is an error, however many tokens went well before, and what comes after it is right."""
    executable: Any = model._executable
    for _ in range(tokens):
        model.forward([1])
    right = executable._layouts
    model.forward([1])
    for _ in range(3):
        executable._layouts = {key: replace(each, grids=[(1 << 30, 1, 1)] * len(each.grids)) for key, each in right.items()}
        with pytest.raises(BackendError, match="did not run the kernels"):
            model.forward([1])
    executable._layouts = right
    state, its_state = model.new_state(), same.new_state()
    for token in range(1, 5):
        np.testing.assert_allclose(model.forward([token], state)[0], same.forward([token], its_state)[0], atol=1e-4)


def test_an_interrupt_while_the_device_works(model: Model, same: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping is left half done: the next token takes another buffer, and other commands."""
    from rwkv_edge_webgpu.staging import Staging

    state = model.new_state()
    for _ in range(3):
        model.forward([1], state)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "_map", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.forward([1], state)
    state, its_state = model.new_state(), same.new_state()
    for token in range(1, 5):
        np.testing.assert_allclose(model.forward([token], state)[0], same.forward([token], its_state)[0], atol=1e-4)
