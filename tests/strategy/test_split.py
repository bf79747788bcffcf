"""Models split over backends: the same logits and states as on one, whatever the way there."""
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import BackendError, Model, State, StrategyError
from tests.conftest import DEVICE_BACKENDS, need_backend

TinyPth = Callable[[str], Path]
SPLITS = (
    "numpy *1 -> cpu", "cpu *2 -> numpy", "webgpu *2 -> cpu", "cpu *1 -> webgpu *2 -> cpu", "numpy *3 -> cpu", "cpu *1+",
    "opencl *1 -> cpu *1 -> webgpu",
)  # fmt: skip
# The first and the newest version, whose states and layers are least alike, on all of these; the others on some.
CASES = [
    *((version, strategy) for version in ("4", "7") for strategy in SPLITS),
    *((version, strategy) for version in ("5.0", "5.1", "5.2", "6") for strategy in ("cpu *2 -> numpy", "webgpu *2 -> cpu")),
]
TOKENS = [1, 5, 96, 0, 33, 33, 7, 60, 2, 2]


@pytest.fixture(params=SPLITS)
def strategy(request: pytest.FixtureRequest) -> str:
    for name in (*DEVICE_BACKENDS, "cpu"):
        if name in request.param:
            need_backend(name)
    return str(request.param)


@pytest.mark.parametrize(("version", "strategy"), CASES, indirect=["strategy"])
def test_chunks_steps_and_batches_agree_with_one_backend(version: str, strategy: str, tiny_pth: TinyPth) -> None:
    with Model(tiny_pth(version), "numpy fp64") as model:
        expected, _ = model.forward(TOKENS, full=True)
    with Model(tiny_pth(version), strategy) as model:
        whole, _ = model.forward(TOKENS, full=True)
        state, steps = None, []
        for token in TOKENS:
            logits, state = model.forward([token], state)
            steps.append(logits)
        first, chunked = model.forward(TOKENS[:4], full=True)
        rest, chunked = model.forward(TOKENS[4:], chunked, full=True)
        (batched, last), _ = model.forward_batch([TOKENS, TOKENS[:3]], full=True)
    for logits in (whole, np.stack(steps), np.concatenate([first, rest]), batched):
        assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(last - expected[:3]).max() < 1e-4


@pytest.mark.parametrize(("version", "strategy"), CASES, indirect=["strategy"])
def test_states_move_between_a_split_and_one_backend(version: str, strategy: str, tiny_pth: TinyPth, tmp_path: Path) -> None:
    with Model(tiny_pth(version), "numpy fp64") as model:
        expected, _ = model.forward(TOKENS)
    with Model(tiny_pth(version), strategy) as split, Model(tiny_pth(version), "numpy") as whole:
        _, state = split.forward(TOKENS[:3])
        branch = state.copy()
        _, state = split.forward(TOKENS[3:5], state)
        state.save(tmp_path / "split.state")
        _, state = whole.forward(TOKENS[5:8], State.load(tmp_path / "split.state"))
        state.save(tmp_path / "whole.state")
        logits, _ = split.forward(TOKENS[8:], State.load(tmp_path / "whole.state"))
        assert np.abs(logits - expected).max() < 1e-4
        logits, state = split.forward(TOKENS[8:], state)  # handed over without a file
        assert np.abs(logits - expected).max() < 1e-4
        _, branch = whole.forward(TOKENS[3:8], branch)
        logits, branch = split.forward(TOKENS[8:], branch)
        assert np.abs(logits - expected).max() < 1e-4


def test_a_state_that_is_written_to_is_taken_up(strategy: str, tiny_pth: TinyPth) -> None:
    with Model(tiny_pth("7"), strategy) as model:
        _, state = model.forward(TOKENS)
        _, other = model.forward(TOKENS[:2])
        other.data[:] = state.data
        again, state = model.forward([3], state)
        same, other = model.forward([3], other)
        assert np.abs(again - same).max() < 1e-5


def test_states_outlive_the_model(strategy: str, tiny_pth: TinyPth) -> None:
    with Model(tiny_pth("7"), strategy) as model:
        _, state = model.forward(TOKENS[:6])
        expected, _ = model.forward(TOKENS[6:], state.copy())
        _, state = model.forward(TOKENS[6:8], state)
        executable = model._executable
    with pytest.raises(BackendError, match="closed"):
        executable.run(None)  # type: ignore[arg-type]
    with Model(tiny_pth("7"), "numpy") as model:
        logits, _ = model.forward(TOKENS[8:], state)
        assert np.abs(logits - expected).max() < 1e-4


def test_states_of_a_split_are_forgotten_with_their_sequences(tiny_pth: TinyPth) -> None:
    need_backend("webgpu")
    with Model(tiny_pth("7"), "webgpu *2 -> cpu") as model:
        for _ in range(5):
            model.forward([1, 2, 3])
        assert len(model._executable._held) <= 1  # type: ignore[attr-defined]


def test_several_formats_on_one_backend_are_one_executable(tiny_pth: TinyPth) -> None:
    with Model(tiny_pth("6"), "cpu fp32 *1 -> cpu q8_0 *2 -> cpu fp16") as model:
        assert type(model._executable).__name__ == "CpuExecutable"
        bounds = [*model.plan.layer_starts, len(model.plan.ops)]
        formats = [
            {op.weight.format for op in model.plan.ops[a:b] if "ffn.key" in getattr(getattr(op, "weight", None), "name", "")}
            for a, b in pairwise(bounds[:4])
        ]
        assert formats == [{"f32"}, {"q8_0"}, {"q8_0"}]
        assert model.plan.ops[-1].weight.format == "f16"  # type: ignore[union-attr]


def test_precisions_cannot_be_mixed(tiny_pth: TinyPth) -> None:
    with pytest.raises(StrategyError, match="must have the same precision"):
        Model(tiny_pth("7"), "numpy fp64 *2 -> cpu")
    with Model(tiny_pth("7"), "numpy fp64 *2 -> numpy fp64") as model:
        assert model.forward([1])[0].dtype == np.float64
