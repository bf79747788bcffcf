"""States: their layout, their files, and the name of the model they belong to."""
import copy
import json
import os
import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge.arch.fingerprint import fingerprint
from rwkv_edge.errors import InputError, ModelFileError, StateError
from rwkv_edge.plan import PlanBuilder
from rwkv_edge.slot import Slot
from rwkv_edge.state import State
from rwkv_edge.weights import open_weights
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.rwkvcpp import write_rwkvcpp
from tests.checkpoints.safetensors import file_bytes, safetensors_bytes, write_safetensors
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny
from tests.weights.mutation import assert_survives, must_refuse, mutants, truncations

MODEL = "rwkv4-2x3-0123456789abcdef"


def layout(n_layer: int = 2) -> tuple[Slot, ...]:
    p = PlanBuilder()
    for i in range(n_layer):
        p.slot(f"blocks.{i}.att.shift", 3)
        p.slot(f"blocks.{i}.att.wkv", 3, 3, initial=np.repeat(np.array([0, 0, -1e30], np.float32), 3).reshape(3, 3))
        p.slot(f"blocks.{i}.ffn.shift", 3, initial=0.5)
    return tuple(p.slots)


def used_state(dtype: Any = np.float32) -> State:
    """A state that has seen something."""
    state = State.initial(layout(), dtype, MODEL)
    state.data[:] = np.random.default_rng(0).standard_normal(state.data.size)
    state.tokens_seen = 42
    return state


def load_as_a_model_file_reader(path: Path) -> State:
    """`State.load` with the error type that tests.weights.mutation expects."""
    try:
        return State.load(path)
    except StateError as error:
        raise ModelFileError(str(error)) from error


def test_a_new_state_holds_each_slots_initial_numbers() -> None:
    state = State.initial(layout(), np.float32, MODEL)
    assert state.data.dtype == np.float32
    assert state.data.flags.c_contiguous
    assert state.tokens_seen == 0
    assert state.nbytes == 4 * 2 * 15
    for i in range(2):
        assert (state[f"blocks.{i}.att.shift"] == 0).all()
        assert (state[f"blocks.{i}.att.wkv"] == np.array([[0], [0], [-1e30]], np.float32)).all()
        assert (state[f"blocks.{i}.ffn.shift"] == 0.5).all()


def test_slots_are_views_in_the_order_of_the_layout() -> None:
    state = used_state()
    assert state.names() == tuple(slot.name for slot in layout())
    assert np.array_equal(np.concatenate([state[name].ravel() for name in state.names()]), state.data)
    state["blocks.1.att.wkv"][2, 0] = 7
    assert state.data[15 + 3 + 6] == 7


def test_a_slot_that_does_not_exist_is_named() -> None:
    with pytest.raises(StateError, match=r"blocks\.9\.att\.wkv"):
        used_state()["blocks.9.att.wkv"]


def test_a_copy_is_independent() -> None:
    state = used_state()
    twin = state.copy()
    assert same(state, twin)
    twin.data[0] += 1
    twin.tokens_seen += 1
    assert same(state, used_state())


class Elsewhere:
    """Where a device has the numbers; nothing that could be pickled."""

    def __init__(self, numbers: NDArray[Any]) -> None:
        self.numbers, self.lock = numbers, threading.Lock()

    def fetch(self, state: NDArray[Any], release: bool = True) -> None:
        state[...] = self.numbers


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_pythons_copies_are_branches_too(copied: Callable[[State], State]) -> None:
    state = used_state()
    state.holder = Elsewhere(state.array.copy())
    state.array = np.zeros_like(state.array)
    twin = copied(state)
    assert same(twin, used_state())
    twin.data[0] += 1
    assert same(state, used_state())


def same(a: State, b: State) -> bool:
    mine, others = ([(s.name, s.shape, s.offset) for s in state.slots] for state in (a, b))
    return (
        mine == others
        and a.data.dtype == b.data.dtype
        and a.data.tobytes() == b.data.tobytes()
        and (a.fingerprint, a.tokens_seen) == (b.fingerprint, b.tokens_seen)
    )


def test_a_states_repr_is_short_and_names_its_model() -> None:
    assert repr(used_state()) == f"<State of {MODEL}: 42 tokens seen, 0.0 MB>"


def test_a_blend_is_the_weighted_mean_of_shifts_and_matrices() -> None:
    slots = (Slot("blocks.0.att.shift", (4,), 0), Slot("blocks.0.att.wkv", (2, 2, 2), 4))
    rng = np.random.default_rng(1)
    a, b = (State(rng.standard_normal(12).astype(np.float32), slots, MODEL, n) for n in (3, 8))
    before = a.data.copy(), b.data.copy()
    blend = a.blend(b, 0.25)
    assert np.allclose(blend.data, 0.75 * a.data + 0.25 * b.data, atol=1e-6)
    assert blend.data.dtype == np.float32
    assert blend.tokens_seen == 8
    assert np.array_equal(a.data, before[0])
    assert np.array_equal(b.data, before[1])
    assert np.array_equal(a.blend(b, 0).data, a.data)
    assert np.array_equal(a.blend(b, 1).data, b.data)


def test_version_4s_averages_are_blended_as_what_they_stand_for() -> None:
    a, b = used_state(), used_state()
    wkv = "blocks.0.att.wkv"
    a[wkv][...] = [[2, 1, 0], [1, 3, 0], [4, -90, -1e30]]  # the last channel has seen nothing
    b[wkv][...] = [[5, 1, 7], [2, 1, 3], [1, 90, 0.5]]
    blend = a.blend(b, 0.3)[wkv].astype(np.float64)
    (na, da, pa), (nb, db, pb) = a[wkv].astype(np.float64), b[wkv].astype(np.float64)
    for channel in (0, 2):
        scale = np.exp(blend[2, channel])
        wanted = [0.7 * np.exp(pa) * x + 0.3 * np.exp(pb) * y for x, y in ((na, nb), (da, db))]
        assert np.allclose(blend[:2, channel] * scale, [wanted[0][channel], wanted[1][channel]], rtol=1e-6)
    assert np.allclose(blend[:2, 1], [0.3, 0.3])  # e^180 times the evidence: the other side counts nothing
    assert np.array_equal(blend[2], np.float32([4, 90, 0.5]))
    assert np.isfinite(blend).all()
    twin = a.blend(a, 0.6)
    assert np.allclose(twin.data, a.data, rtol=1e-6)


def test_states_of_two_models_cannot_be_blended() -> None:
    other = used_state()
    other.fingerprint = "rwkv7-9x9-0"
    with pytest.raises(StateError, match=f"one belongs to '{MODEL}', the other to 'rwkv7-9x9-0'"):
        used_state().blend(other, 0.5)
    with pytest.raises(StateError, match="astype"):
        used_state().blend(used_state(np.float64), 0.5)
    for weight in (-0.1, 1.1, float("nan"), "1"):
        with pytest.raises(InputError, match="from 0 to 1"):
            used_state().blend(used_state(), weight)  # type: ignore[arg-type]


def test_what_is_taken_for_a_saved_state_is_named(tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", tiny("7"))
    with pytest.raises(StateError, match=r"model\.pth: is a model, not a saved state"):
        State.load(tmp_path / "model.pth")
    write_pth(tmp_path / "tuned.pth", {"blocks.0.att.time_state": np.zeros((4, 16, 16), np.float32)})
    with pytest.raises(StateError, match=r"tuned\.pth: holds a tuned initial state.*Model\.load_state"):
        State.load(tmp_path / "tuned.pth")
    with pytest.raises(StateError, match=r"missing\.state: there is no such file"):
        State.load(tmp_path / "missing.state")


def test_a_file_gives_the_same_state_back(tmp_path: Path) -> None:
    state = used_state()
    state["blocks.0.att.shift"][:] = np.nan, np.inf, -0.0
    state.save(tmp_path / "a.state")
    loaded = State.load(str(tmp_path / "a.state"))
    assert same(state, loaded)
    loaded.check_fits(layout(), MODEL, np.float32)
    loaded.data += 1  # writable, not a view of the file


def test_a_float64_state_is_stored_as_float32(tmp_path: Path) -> None:
    state = used_state(np.float64)
    state.save(tmp_path / "a.state")
    assert same(State.load(tmp_path / "a.state"), state.astype(np.float32))
    assert same(State.load(tmp_path / "a.state").astype(np.float64), state.astype(np.float32).astype(np.float64))


def test_other_tools_can_read_the_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    state = used_state()
    state.save(tmp_path / "a.state")
    tensors: dict[str, NDArray[Any]] = safetensors.load_file(tmp_path / "a.state")
    assert set(tensors) == set(state.names())
    assert all(np.array_equal(tensors[name], state[name]) for name in state.names())


def test_the_files_header_is_what_the_format_says(tmp_path: Path) -> None:
    used_state().save(tmp_path / "a.state")
    raw = (tmp_path / "a.state").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert header["__metadata__"] == {"format": "rwkv_edge.state 1", "fingerprint": MODEL, "tokens_seen": "42"}
    assert header["blocks.0.att.wkv"] == {"dtype": "F32", "shape": [3, 3], "data_offsets": [12, 48]}
    assert size % 8 == 0
    assert raw[8 + size :] == used_state().data.tobytes()


def test_saving_over_a_file_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    for tokens_seen in (1, 2):
        state = used_state()
        state.tokens_seen = tokens_seen
        state.save(tmp_path / "a.state")
    assert State.load(tmp_path / "a.state").tokens_seen == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    used_state().save(tmp_path / "a.state")
    before = (tmp_path / "a.state").read_bytes()

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StateError, match=r"a\.state: the state cannot be saved: no space left on device"):
        State.initial(layout(), np.float32, MODEL).save(tmp_path / "a.state")
    assert (tmp_path / "a.state").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("missing/a.state", "file/a.state", ".", "nul\0"):
        with pytest.raises(StateError, match="cannot be saved"):
            used_state().save(tmp_path / place)


def test_a_state_fits_only_a_model_with_its_fingerprint_and_slots() -> None:
    state = used_state()
    state.check_fits(layout(), MODEL)
    with pytest.raises(StateError, match=r"belongs to 'rwkv4-2x3-0123456789abcdef', this model is 'rwkv7-1'"):
        state.check_fits(layout(), "rwkv7-1")
    with pytest.raises(StateError, match="6 slots, expected 9"):
        state.check_fits(layout(3), MODEL)
    with pytest.raises(StateError, match="6 slots, expected 3"):
        state.check_fits(layout(1), MODEL)
    other = (Slot("blocks.0.att.shift", (4,), 0), *layout()[1:])
    with pytest.raises(StateError, match=r"blocks\.0\.att\.shift is \[3\] at 0, expected \[4\] at 0"):
        state.check_fits(other, MODEL)
    other = (*layout()[:5], Slot("blocks.1.ffn.memory", (3,), 27))
    with pytest.raises(StateError, match=r"'blocks\.1\.ffn\.shift' where blocks\.1\.ffn\.memory is expected"):
        state.check_fits(other, MODEL)


def test_a_state_of_another_precision_says_how_to_convert_it() -> None:
    with pytest.raises(StateError, match=r"holds float32, the model works in float64: use state\.astype\('float64'\)"):
        used_state().check_fits(layout(), MODEL, np.float64)
    used_state().astype(np.float64).check_fits(layout(), MODEL, np.float64)


METADATA = {"format": "rwkv_edge.state 1", "fingerprint": MODEL, "tokens_seen": "42"}
ARRAYS: Checkpoint = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}


def test_a_minimal_file_is_a_state(tmp_path: Path) -> None:
    (tmp_path / "a.state").write_bytes(safetensors_bytes(ARRAYS, "f32", METADATA))
    state = State.load(tmp_path / "a.state")
    assert state.names() == ("a", "b")
    assert state.data.tolist() == [0] * 6 + [1] * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "rwkv_edge.state 2"}, r"format 'rwkv_edge\.state 2', expected 'rwkv_edge\.state 1'"),
        ({"format": "pt"}, "format 'pt'"),
        ({"tokens_seen": "-1"}, "tokens_seen is '-1'"),
        ({"tokens_seen": "1_0"}, "tokens_seen"),
        ({"tokens_seen": "٣"}, "tokens_seen"),
        ({"tokens_seen": ""}, "tokens_seen"),
        ({"tokens_seen": "9" * 19}, "tokens_seen"),
        ({"tokens_seen": "9" * 5000}, "tokens_seen"),
    ],
)
def test_metadata_that_is_not_a_states_is_named(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    (tmp_path / "a.state").write_bytes(safetensors_bytes(ARRAYS, "f32", METADATA | changed))
    with pytest.raises(StateError, match=message):
        State.load(tmp_path / "a.state")


def test_files_that_are_no_states_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    no_fingerprint = {"format": "rwkv_edge.state 1", "tokens_seen": "1"}
    # Shapes that fit the data_offsets but not a memory: nothing may be allocated for them.
    absurd = {"__metadata__": METADATA, "a": {"dtype": "F32", "shape": [1 << 39], "data_offsets": [0, 1 << 41]}}
    for data in (
        b"",
        b"not a state",
        (1 << 63).to_bytes(8, "little") + b"{}",
        file_bytes("{}", b""),
        file_bytes("[" * 100_000, b""),
        file_bytes(json.dumps(absurd), b"\0" * 64),
        safetensors_bytes({}, "f32", METADATA),
        safetensors_bytes(ARRAYS, "f32"),
        safetensors_bytes(ARRAYS, "f32", no_fingerprint),
        safetensors_bytes(ARRAYS, "f16", METADATA),
        safetensors_bytes(ARRAYS, "bf16", METADATA),
    ):
        path.write_bytes(data)
        must_refuse(load_as_a_model_file_reader, path)
    must_refuse(load_as_a_model_file_reader, tmp_path)
    must_refuse(load_as_a_model_file_reader, tmp_path / "missing")


def test_a_file_larger_than_any_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used_state().save(tmp_path / "a.state")
    monkeypatch.setattr("rwkv_edge.state.state_file.MAX_FILE_BYTES", 119)
    with pytest.raises(StateError, match="has 120 bytes, expected at most 119"):
        State.load(tmp_path / "a.state")


def test_damaged_files_are_refused_or_loaded_but_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    used_state().save(path)
    data = path.read_bytes()
    rng = random.Random(0)
    header = range(8 + int.from_bytes(data[:8], "little"))
    refused = assert_survives(load_as_a_model_file_reader, path, mutants(data, rng, 2000, [header]))
    assert 1000 < refused < 2000
    cut = list(truncations(data, rng, 200))
    assert assert_survives(load_as_a_model_file_reader, path, iter(cut)) == len(cut)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_models_fingerprint_is_the_same_in_every_format(tmp_path: Path, version: str) -> None:
    checkpoint = tiny(version)
    files = [
        write_pth(tmp_path / "bf16.pth", checkpoint, dtype="bf16"),
        write_pth(tmp_path / "f32.pth", checkpoint, dtype="f32"),
        write_safetensors(tmp_path / "bf16.safetensors", checkpoint, dtype="bf16"),
        write_rwkvcpp(tmp_path / "q8_0.bin", checkpoint, type="q8_0"),
    ]
    if version in ("6", "7"):
        files += [write_gguf(tmp_path / f"{type}.gguf", checkpoint, type) for type in ("f32", "q8_0")]
    names = {fingerprint(open_weights(path)) for path in files}
    assert len(names) == 1
    assert names.pop().startswith(f"rwkv{version}-3x64-")


def test_float32_originals_and_their_bf16_copies_share_a_fingerprint(tmp_path: Path) -> None:
    checkpoint = tiny("7")
    norm = checkpoint["blocks.1.ln1.weight"]
    # Halfway between two bfloat16 numbers, odd and even, and anything else.
    norm[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    norm[2:] += np.random.default_rng(0).standard_normal(norm.size - 2).astype(np.float32) * 1e-3
    write_pth(tmp_path / "f32.pth", checkpoint, dtype="f32")
    mantissa, exponent = np.frexp(norm.astype(np.float64))
    rounded = np.ldexp(np.rint(mantissa * 256), exponent - 8).astype(np.float32)  # 8 bits, ties to even
    assert (rounded != norm).sum() > 50
    write_pth(tmp_path / "bf16.pth", checkpoint | {"blocks.1.ln1.weight": rounded}, dtype="bf16")
    assert fingerprint(open_weights(tmp_path / "f32.pth")) == fingerprint(open_weights(tmp_path / "bf16.pth"))


def test_other_models_have_other_fingerprints(tmp_path: Path) -> None:
    trained_on = tiny("7")
    trained_on["blocks.2.ln1.weight"][5] *= 1.02
    checkpoints = [*(tiny(version) for version in VERSIONS), tiny("7", seed=1), tiny("7", n_layer=2), trained_on]
    names = set()
    for checkpoint in checkpoints:
        write_pth(tmp_path / "model.pth", checkpoint, dtype="f32")
        names.add(fingerprint(open_weights(tmp_path / "model.pth")))
    assert len(names) == len(checkpoints)


def test_weights_without_norms_have_no_fingerprint(tmp_path: Path) -> None:
    checkpoint = tiny("7")
    del checkpoint["blocks.1.ln1.weight"]
    write_pth(tmp_path / "model.pth", checkpoint, dtype="f32")
    with pytest.raises(ModelFileError, match=r"blocks\.1\.ln1\.weight"):
        fingerprint(open_weights(tmp_path / "model.pth"))
