"""Whether llama.cpp loads the GGUFs that `rwkv_edge.quantize` writes and computes the same logits on them.

    python -m bench.llama_agreement /tmp/bm/t6.pth /tmp/bm/t7.pth --types f32,q8_0

For each source and type: the largest difference of any logit after each of some random tokens and the mean KL divergence,
ours against llama.cpp's on the same file. Only f32 compares exactly: llama.cpp rounds activations for the others.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.engines.llama import Session
from bench.table import render
from rwkv_edge import Model, quantize
from rwkv_edge.scoring import log_softmax


def ours(path: Path, tokens: list[int], strategy: str) -> NDArray[np.float32]:
    with Model(path, strategy) as model:
        return model.forward(tokens, full=True)[0]


def theirs(path: Path, tokens: list[int], n_vocab: int) -> NDArray[np.float32]:
    session = Session(str(path), 2, {})
    rows = []
    for token in tokens:
        session.step(token)
        rows.append(np.ctypeslib.as_array(session.model._ctx.get_logits(), (n_vocab,)).copy())
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--types", default="f32,q8_0")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--strategy", default="cpu")
    a = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for source in a.sources:
            for type in a.types.split(","):
                path = Path(folder) / f"{source.stem}-{type}.gguf"
                quantize(source, path, type)
                rows.append({"file": path.name, **_compared(path, a.tokens, a.strategy)})
                path.unlink()
    print(render(rows))


def _compared(path: Path, n_tokens: int, strategy: str) -> dict[str, str]:
    with Model(path, "numpy") as model:
        n_vocab = model.shape.n_vocab
    tokens = np.random.default_rng(1).integers(1, n_vocab, n_tokens).tolist()
    mine, other = ours(path, tokens, strategy), theirs(path, tokens, n_vocab)
    p, q = log_softmax(mine), log_softmax(other)
    return {
        "largest difference": f"{np.abs(mine - other).max():.2e}",
        "logits' std": f"{mine.std():.2f}",
        "mean KL": f"{(np.exp(p) * (p - q)).sum(axis=1).mean():.2e}",
        "same top-1": f"{(mine.argmax(axis=1) == other.argmax(axis=1)).mean():.3f}",
    }


if __name__ == "__main__":
    main()
