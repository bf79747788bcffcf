"""Streams inside asyncio: the same text, an event loop that goes on, and no thread left behind."""
import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge import InputError, Model, Sampling
from rwkv_edge.demo import MODEL_PATH
from tests.checkpoints.tiny import Checkpoint, tiny

ENDLESS = Sampling(seed=1, banned_tokens=[0])


@pytest.fixture
def byte_model(pth_of: Callable[[Checkpoint], Path]) -> Model:
    return Model(pth_of(tiny("7", n_vocab=256)), "numpy")


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rwkv-edge-stream")]


def test_async_streams_give_the_same_texts_side_by_side() -> None:
    prompts = [f"def f{n}(" for n in range(4)]
    settings: dict[str, Any] = {"max_tokens": 30, "sampling": Sampling(seed=3, top_p=0.8), "stop": "\n\n"}

    async def continued(model: Model, prompt: str) -> str:
        return "".join([piece async for piece in model.astream(prompt, **settings)])

    async def together(model: Model) -> list[str]:
        return await asyncio.gather(*(continued(model, prompt) for prompt in prompts))

    with Model(MODEL_PATH) as model:
        assert asyncio.run(together(model)) == [model.generate(prompt, **settings) for prompt in prompts]
    assert our_threads() == []


class Gate:
    """A run of the model that waits until the test lets it end."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.runs, self.entered, self.open = 0, threading.Event(), threading.Event()
        run = model._executable.run

        def gated(batch: Any) -> Any:
            self.runs += 1
            if self.runs > after:
                self.entered.set()
                assert self.open.wait(10)
            return run(batch)

        monkeypatch.setattr(model._executable, "run", gated)


def test_a_cancelled_task_stops_within_a_token_and_leaves_no_thread(
    byte_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(byte_model, monkeypatch, after=3)
    pieces: list[str] = []

    async def read() -> None:
        async for piece in byte_model.astream("Hello", sampling=ENDLESS, max_tokens=10**6):
            pieces.append(piece)

    async def main() -> None:
        task = asyncio.create_task(read())
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)  # the loop goes on while the model runs
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()  # it waits for the run, without holding up the loop
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert our_threads() == []

    asyncio.run(main())
    assert len(pieces) == 3
    assert gate.runs == 4


def test_leaving_the_loop_early_ends_the_stream(byte_model: Model) -> None:
    state = byte_model.new_state()

    async def main() -> None:
        async with aclosing(byte_model.astream("Hello", state, sampling=ENDLESS, max_tokens=10**6)) as stream:
            async for _ in stream:
                if state.tokens_seen > 8:
                    break
        assert our_threads() == []

    asyncio.run(main())
    assert state.tokens_seen == 9


def test_a_deadline_ends_the_stream(byte_model: Model) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.05):
            async for _ in byte_model.astream("Hello", sampling=ENDLESS, max_tokens=10**6):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert our_threads() == []


def test_mistakes_are_told_at_once_and_errors_arrive(byte_model: Model) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        byte_model.astream("x", max_tokens=0)

    async def read() -> None:
        async for _ in byte_model.astream("Hello", sampling=ENDLESS):
            byte_model.close()

    with pytest.raises(InputError, match="closed"):
        asyncio.run(read())
    assert our_threads() == []
