"""The bundled model with all its matrices in one format, by our encoders and by ggml's: how far its predictions move from those
of its floats (KL divergence, nats a token). Computed in float32 from the decoded blocks.

    python -m bench.encode_kl [--formats q4_0,q4_k] [--text FILE ...] [--save]
"""
import argparse
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import reference_encoder
from bench.table import Row, report
from rwkv_edge import registry
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Batch, Encoder
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.tensor import Tensor, Weights

Floats = NDArray[np.float32]
TEXTS = ("heapq.py", "json/decoder.py", "csv.py", "textwrap.py", "queue.py", "tempfile.py")  # not seen in training
BYTES = slice(1000, 4000)  # of each
BLOCK = 256


def matrices(weights: Weights) -> dict[str, Tensor]:
    """Those that every block format can hold, which are all large ones."""
    return {name: t for name, t in weights.tensors.items() if len(t.shape) == 2 and not any(n % BLOCK for n in t.shape)}


class Predictions:
    """Of a model of bytes (0 separates texts) on some texts."""

    def __init__(self, path: Path, texts: list[str]) -> None:
        self.weights = open_weights(path)
        folder = Path(sysconfig.get_path("stdlib"))
        pieces = [Path(text).read_bytes() for text in texts] or [(folder / name).read_bytes()[BYTES] for name in TEXTS]
        self.tokens = np.frombuffer(b"\0".join(pieces), np.uint8).astype(np.int32)
        self.expected = self._log_probabilities(lambda x: x)

    def divergence(self, change: Callable[[Floats], Floats]) -> NDArray[np.float64]:
        """KL divergence at each token, in nats, of the model whose matrices went through `change`."""
        kl: NDArray[np.float64] = (np.exp(self.expected) * (self.expected - self._log_probabilities(change))).sum(axis=1)
        return kl

    def _log_probabilities(self, change: Callable[[Floats], Floats]) -> NDArray[np.float64]:
        """[tokens, vocabulary], computed in float32 from float32 weights."""
        changed = {
            name: Tensor(name, t.shape, "f32", change(t.decode())) for name, t in matrices(self.weights).items()
        }
        plan = build_plan(replace(self.weights, tensors={**self.weights.tensors, **changed}))
        executable = registry.best().compile(plan)
        state, rows = np.zeros(plan.state_size, executable.state_dtype), []
        for begin in range(0, len(self.tokens), 512):
            tokens = self.tokens[begin : begin + 512]
            rows.append(executable.run(Batch(tokens, [len(tokens)], [state], np.arange(len(tokens), dtype=np.int32))))
        executable.close()
        logits = np.concatenate(rows).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        found: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return found


def divergence(formats: list[str], texts: list[str]) -> list[Row]:
    predictions, rows = Predictions(MODEL_PATH, texts), []
    encoders: dict[str, Encoder] = {"ours": registry.encoder()}
    if reference_encoder.available():
        encoders["reference"] = reference_encoder.encode
    for format in formats:
        found = {name: predictions.divergence(_through(encode, format)) for name, encode in encoders.items()}
        row: Row = {"format": format} | {f"KL {name}": f"{kl.mean():.6f}" for name, kl in found.items()}
        if "reference" in found:
            row["ratio"] = f"{found['ours'].mean() / found['reference'].mean():.3f}"
            tails = [np.percentile(found[name], 99) for name in ("ours", "reference")]
            row["ratio of 99th percentiles"] = f"{tails[0] / tails[1]:.3f}"
        rows.append(row)
    return rows


def _through(encode: Encoder, format: str) -> Callable[[Floats], Floats]:
    return lambda x: decode_blocks(encode(format, x), format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(("q8_0", *SCHEMES)))
    parser.add_argument("--text", nargs="+", default=[], help="files to predict (default: some of Python's own)")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    report("encode_kl", divergence(options.formats.split(","), options.text), [], options.save)


if __name__ == "__main__":
    main()
