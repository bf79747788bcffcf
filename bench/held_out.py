"""Text that the bundled model was not trained on, and how well a model of bytes predicts it."""
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import auto
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Batch
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.text.scoring import log_softmax
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.tensor import Tensor, Weights

Floats = NDArray[np.float32]

# Modules of Python's standard library that bench.train_demo keeps out of training, with the tests about them.
HELD_OUT = (
    "asyncio/locks.py", "configparser.py", "csv.py", "distutils/ccompiler.py", "email/message.py", "fractions.py",
    "heapq.py", "http/server.py", "idlelib/autocomplete.py", "json/decoder.py", "json/encoder.py",
    "multiprocessing/pool.py", "queue.py", "sched.py", "shelve.py", "statistics.py", "tempfile.py", "textwrap.py",
    "unittest/case.py", "zoneinfo/_zoneinfo.py",
)  # fmt: skip
BYTES = slice(1000, 4000)  # of each
# Others, from the training text: what `--calibrate` reads in measurements.
CALIBRATION = ("argparse.py", "ast.py", "inspect.py", "pathlib.py", "socket.py", "threading.py")
TOKENS_AT_ONCE = 512


def held_out_text(texts: Sequence[str] = ()) -> bytes:
    """The files `texts`, else a piece of each module in HELD_OUT that this Python has; separated by 0, as documents are."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = [folder / name for name in HELD_OUT]
    pieces = [Path(text).read_bytes() for text in texts] or [m.read_bytes()[BYTES] for m in modules if m.exists()]
    return b"\0".join(pieces)


def calibration_text() -> bytes:
    """A piece of each module in CALIBRATION."""
    folder = Path(sysconfig.get_path("stdlib"))
    return b"\0".join((folder / name).read_bytes()[BYTES] for name in CALIBRATION)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a model on a text, against the bundled one in float32. kl_mean, kl_p99: nats a token."""

    perplexity: float
    kl_mean: float
    kl_p99: float
    top1_agreement: float


class HeldOut:
    """Scores models on a text, with the bundled model in float32 as the reference."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.weights = open_weights(MODEL_PATH)
        text = held_out_text(texts)
        self.tokens = np.frombuffer(b"\0" + text[:-1], np.uint8).astype(np.int32)
        self.wanted = np.frombuffer(text, np.uint8).astype(np.int64)
        self.expected = self._log_probabilities(in_float32(self.weights))
        self.perplexity = self._perplexity(self.expected)

    def score(self, weights: Weights) -> Scores:
        """As the fastest backend computes it: float32 weights exactly, products with blocks with activations in 8 bits."""
        found = self._log_probabilities(weights)
        kl = (np.exp(self.expected) * (self.expected - found)).sum(axis=1)
        agreed = (self.expected.argmax(axis=1) == found.argmax(axis=1)).mean()
        return Scores(self._perplexity(found), float(kl.mean()), float(np.percentile(kl, 99)), float(agreed))

    def _perplexity(self, log_probabilities: NDArray[np.float64]) -> float:
        return float(np.exp(-log_probabilities[np.arange(len(self.wanted)), self.wanted].mean()))

    def _log_probabilities(self, weights: Weights) -> NDArray[np.float64]:
        """[tokens, vocabulary]"""
        plan = build_plan(weights)
        executable = auto.best().compile(plan)
        state, rows = np.zeros(plan.state_size, executable.state_dtype), []
        for begin in range(0, len(self.tokens), TOKENS_AT_ONCE):
            piece = self.tokens[begin : begin + TOKENS_AT_ONCE]
            rows += executable.run(Batch(piece, [len(piece)], [state], np.arange(len(piece), dtype=np.int32)))
        executable.close()
        return log_softmax(np.concatenate(rows))


def with_tensors(weights: Weights, changed: Mapping[str, Floats]) -> Weights:
    """The model with these tensors replaced."""
    tensors = {name: replace(weights.tensors[name], format="f32", data=data) for name, data in changed.items()}
    return replace(weights, tensors={**weights.tensors, **tensors})


def in_float32(weights: Weights) -> Weights:
    """The same numbers, so that no backend rounds what is multiplied with them."""
    return with_tensors(weights, {name: t.decode() for name, t in weights.tensors.items() if t.format != "f32"})


def matrices(weights: Weights, block: int = 256) -> dict[str, Tensor]:
    """Those that every block format can hold, which are all large ones."""
    return {name: t for name, t in weights.tensors.items() if len(t.shape) == 2 and not any(n % block for n in t.shape)}
