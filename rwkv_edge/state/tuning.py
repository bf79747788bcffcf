"""States that a sequence can start from: saved ones, and those that were trained ("state tuning" of RWKV-LM and RWKV-PEFT).

A tuned file holds one tensor a layer, `blocks.N.att.time_state` [H, value, key]; versions 5 and 6 keep [H, key, value]. The
token shifts start at 0. web-rwkv's .st files have the last two axes exchanged.
"""
from pathlib import Path

import numpy as np

from rwkv_edge.arch import ModelShape
from rwkv_edge.errors import ModelFileError, StateError, quoted
from rwkv_edge.state import State
from rwkv_edge.state.state_file import TUNED
from rwkv_edge.weights import RawFile, read_raw


def load_state(path: str | Path, initial: State, shape: ModelShape) -> State:
    """The state in a file, for the model of this shape whose new sequences start from `initial` (which is kept).

    Raises StateError, one sentence: the file holds no state, or another model's.
    """
    path = Path(path)
    if file := _tuned_file(path):
        return _tuned(file, initial, shape)
    state = State.load(path)
    if state.array.dtype != initial.array.dtype:
        state = state.astype(initial.array.dtype)
    try:
        state.check_fits(initial.slots, initial.fingerprint)
    except StateError as error:
        raise StateError(f"{path}: {error}") from None
    return state


def _tuned_file(path: Path) -> RawFile | None:
    try:
        file = read_raw(path)
    except ModelFileError:
        return None  # State.load says what is wrong
    is_tuned = any(name.endswith(TUNED) for name in file.tensors) and "emb.weight" not in file.tensors
    return file if is_tuned else None


def _tuned(file: RawFile, initial: State, shape: ModelShape) -> State:
    if shape.version == "4":
        raise StateError(f"{file.path}: holds a tuned initial state, which RWKV-4 models do not have")
    state = initial.copy()
    tensors = {name.removeprefix("model."): tensor for name, tensor in file.tensors.items()}
    for layer in range(shape.n_layer):
        name = f"blocks.{layer}{TUNED}"
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise StateError(f"{file.path}: tensor {name} is missing; {initial.fingerprint} has {shape.n_layer} layers")
        expected = (shape.n_head, shape.head_size, shape.head_size)
        if tensor.shape != expected:
            found = f"has shape {list(tensor.shape)}, expected {list(expected)} for {initial.fingerprint}"
            raise StateError(f"{file.path}: tensor {name} {found}")
        wkv = tensor.decode(np.float32)
        exchanged = (shape.version != "7") != (file.path.suffix == ".st")
        state[f"blocks.{layer}.att.wkv"][...] = wkv.swapaxes(1, 2) if exchanged else wkv
    if tensors:
        name = next(iter(tensors))
        raise StateError(f"{file.path}: tensor {quoted(name)} is no part of a tuned state for {initial.fingerprint}")
    return state
