"""`rwkv.model.RWKV` over `rwkv_edge.Model`."""
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rwkv_edge.compat.arrays import Array
from rwkv_edge.compat.states import StateList
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model
from rwkv_edge.state import State


class RWKV:
    """RWKV(model=PATH, strategy="cpu fp32"): any model file that the engine reads; ".pth" may be left out, as there.

    args: n_layer, n_embd, n_att, n_head, head_size, vocab_size, MODEL_NAME, strategy_string. version: 4, 5, 5.1, 5.2, 6 or 7.
    strategy: for each layer and the head, `device` and `atype`, which scripts that build a state themselves ask for.
    model: the `rwkv_edge.Model` behind it. verbose: say on standard output what is loaded.
    Raises what `Model` raises.
    """

    def __init__(self, model: str, strategy: str, verbose: bool = True, convert_and_save_and_exit: str | None = None) -> None:
        if convert_and_save_and_exit is not None:
            raise InputError("nothing needs converting here; `rwkv-edge quantize IN OUT --type q8` makes a smaller file")
        path = model_path(model)
        if verbose:
            print(f"Loading {path} ({strategy})")
        self.model = Model(path, strategy)
        shape = self.model.shape
        self.version = float(shape.version)
        self.n_layer, self.n_embd, self.head_size = shape.n_layer, shape.n_embd, shape.head_size
        self.n_head = shape.n_head
        self.args = SimpleNamespace(
            MODEL_NAME=str(path),
            strategy_string=strategy,
            n_layer=shape.n_layer,
            n_embd=shape.n_embd,
            n_att=shape.n_embd,
            n_head=shape.n_head,
            head_size=shape.head_size,
            vocab_size=shape.n_vocab,
        )
        self.strategy = [SimpleNamespace(device="cpu", atype=np.float32)] * (shape.n_layer + 1)

    def generate_zero_state(self) -> StateList:
        return StateList(self.model.new_state())

    def forward(self, tokens: Sequence[int] | int, state: Any, full_output: bool = False) -> tuple[Array, Any]:
        """(logits float32 [V], state), or [T, V] of more than one token with `full_output`.

        state: None, what an earlier call returned (and this one changes), or a list of arrays, whose items are replaced.
        """
        ids = [tokens] if isinstance(tokens, int | np.integer) else list(tokens)
        held = self._held(state)
        logits, _ = self.model.forward(ids, held.to_run(), full=full_output and len(ids) > 1)
        if isinstance(state, list):
            state[:] = list(held)
            return logits.view(Array), state
        return logits.view(Array), state if isinstance(state, State) else held

    def _held(self, state: Any) -> StateList:
        if state is None:
            return self.generate_zero_state()
        if isinstance(state, State):
            return StateList(state)
        return state if isinstance(state, StateList) else StateList.of(self.model, state)

    __call__ = forward


def model_path(name: str) -> Path:
    """The file meant by a name that may lack its ".pth"."""
    path = Path(name.strip())
    with_suffix = path.with_name(f"{path.name}.pth") if path.name else path
    return with_suffix if not path.exists() and with_suffix.exists() else path
