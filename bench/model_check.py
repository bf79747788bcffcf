"""How a model's activations behave: spread of the logits, zeros behind channel mixing's squared relu."""
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rwkv_edge_numpy.executable import NumpyExecutable

from rwkv_edge import Model
from rwkv_edge.backend import Batch
from rwkv_edge.plan import Activation, Op


class Watching(NumpyExecutable):
    """Runs a plan and keeps the fraction of zeros of each squared relu, layer by layer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.zeros: list[float] = []

    def _apply(self, op: Op, values: dict[int, NDArray[Any]], batch: Batch) -> NDArray[Any]:
        out = super()._apply(op, values, batch)
        if isinstance(op, Activation) and op.kind == "relu_squared":
            self.zeros.append(float(np.mean(out == 0)))
        return out


def measure(path: Path, n_tokens: int = 64) -> tuple[NDArray[np.float32], list[float]]:
    """Logits [n_tokens, n_vocab] of random tokens, and the fraction of zeros in each layer."""
    with Model(path, "numpy") as model:
        watching = Watching(model.plan, np.float32)
        tokens = np.random.default_rng(1).integers(0, model.shape.n_vocab, n_tokens).astype(np.int32)
        state = model.new_state()
        (logits,) = watching.run(Batch(tokens, [n_tokens], [state.data], np.arange(n_tokens, dtype=np.int32)))
    return logits, watching.zeros


def check(path: Path) -> str:
    """One line about the model; raises ValueError where a logit is not finite."""
    logits, zeros = measure(path)
    if not np.isfinite(logits).all():
        raise ValueError(f"{path}: the logits are not finite")
    by_layer = " ".join(f"{z:.2f}" for z in zeros)
    return f"{path}: logits' standard deviation {logits.std():.2f}, zeros {np.mean(zeros):.3f}, by layer {by_layer}"
