"""Tuned initial states, and that `Model.load_state` takes no state of another model."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model, StateError
from tests.checkpoints.pth import write_pth
from tests.checkpoints.safetensors import write_safetensors
from tests.checkpoints.tiny import Checkpoint, tiny

TinyPth = Callable[[str], Path]
HEADS, SIZE = 4, 16


def tuned(n_layer: int = 3, prefix: str = "") -> Checkpoint:
    rng = np.random.default_rng(0)
    shape = (HEADS, SIZE, SIZE)
    return {f"{prefix}blocks.{i}.att.time_state": rng.integers(-9, 9, shape).astype(np.float32) for i in range(n_layer)}


@pytest.mark.parametrize("version", ["5.0", "5.1", "5.2", "6", "7"])
def test_a_tuned_file_is_as_good_as_merged_into_the_model(version: str, tmp_path: Path, tiny_pth: TinyPth) -> None:
    merged = write_pth(tmp_path / "merged.pth", tiny(version) | tuned(), dtype="f32")
    for prefix in ("", "model."):
        file = write_pth(tmp_path / "tuned.pth", tuned(prefix=prefix), dtype="bf16")
        with Model(merged, "numpy") as whole, Model(tiny_pth(version), "numpy") as model:
            state, expected = model.load_state(file), whole.new_state()
            assert state.data.any()
            assert np.array_equal(state.data, expected.data)
            assert state.tokens_seen == 0
            logits, _ = model.forward([1, 2, 3], state)
            wanted, _ = whole.forward([1, 2, 3], expected)
            assert np.array_equal(logits, wanted)


def test_the_axes_are_value_and_key_in_the_file(tmp_path: Path, tiny_pth: TinyPth) -> None:
    numbers = tuned()
    file = write_pth(tmp_path / "tuned.pth", numbers)
    numbers_of_layer = numbers["blocks.1.att.time_state"]
    with Model(tiny_pth("7"), "numpy") as model:
        assert np.array_equal(model.load_state(file)["blocks.1.att.wkv"], numbers_of_layer)
    with Model(tiny_pth("6"), "numpy") as model:
        assert np.array_equal(model.load_state(file)["blocks.1.att.wkv"], numbers_of_layer.swapaxes(1, 2))


def test_web_rwkvs_files_have_them_exchanged(tmp_path: Path, tiny_pth: TinyPth) -> None:
    numbers = tuned()
    exchanged = {name: np.ascontiguousarray(array.swapaxes(1, 2)) for name, array in numbers.items()}
    for version in ("6", "7"):
        with Model(tiny_pth(version), "numpy") as model:
            ours = model.load_state(write_pth(tmp_path / "tuned.pth", numbers))
            theirs = model.load_state(write_safetensors(tmp_path / "tuned.st", exchanged, dtype="f16"))
            assert np.array_equal(ours.data, theirs.data)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (tuned(2), r"blocks\.2\.att\.time_state is missing; rwkv7-3x64-\w+ has 3 layers"),
        (tuned(4), r"'blocks\.3\.att\.time_state' is no part"),
        (tuned() | {"blocks.0.ln1.weight": np.zeros(64, np.float32)}, r"'blocks\.0\.ln1\.weight' is no part"),
        ({n: a[:2] for n, a in tuned().items()}, r"shape \[2, 16, 16\], expected \[4, 16, 16\] for rwkv7-3x64"),
    ],
)
def test_a_tuned_file_for_another_model_is_refused_by_its_tensor(
    contents: Checkpoint, message: str, tmp_path: Path, tiny_pth: TinyPth
) -> None:
    with Model(tiny_pth("7"), "numpy") as model, pytest.raises(StateError, match=message):
        model.load_state(write_pth(tmp_path / "tuned.pth", contents))


def test_version_4_has_no_tuned_states(tmp_path: Path, tiny_pth: TinyPth) -> None:
    with Model(tiny_pth("4"), "numpy") as model, pytest.raises(StateError, match="RWKV-4 models do not have"):
        model.load_state(write_pth(tmp_path / "tuned.pth", tuned()))


def test_a_saved_state_loads_into_its_model_and_no_other(tmp_path: Path, tiny_pth: TinyPth) -> None:
    with Model(tiny_pth("7"), "numpy") as model, Model(tiny_pth("6"), "numpy") as other:
        _, state = model.forward([1, 2, 3])
        state.save(tmp_path / "a.state")
        loaded = model.load_state(str(tmp_path / "a.state"))
        assert np.array_equal(loaded.data, state.data)
        assert loaded.tokens_seen == 3
        with pytest.raises(StateError) as caught:
            other.load_state(tmp_path / "a.state")
        assert str(caught.value) == (
            f"{tmp_path / 'a.state'}: the state belongs to {model.fingerprint!r}, this model is {other.fingerprint!r}"
        )
        with pytest.raises(StateError, match="is a model, not a saved state"):
            model.load_state(tiny_pth("7"))
        with pytest.raises(StateError, match="no such file"):
            model.load_state(tmp_path / "missing")
    with Model(tiny_pth("7"), "numpy fp64") as precise:
        precise.forward([4], precise.load_state(tmp_path / "a.state"))
