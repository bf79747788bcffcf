"""Whether llama.cpp loads the GGUFs that `rwkv_edge.quantize` writes and computes the same logits on them.

    python -m bench.llama_agreement /tmp/bm/t6.pth /tmp/bm/t7.pth [--types f32,q8_0] [--save]

For each source and type, after each of some random tokens: the largest difference of any logit, ours against llama.cpp's on
the same file, beside the logits' spread; how often both find the same token likeliest; and the mean KL divergence of either
from what the file says exactly (its weights decoded, float32 throughout). Only f32 compares exactly: for the other types
both engines round the inputs of products, each in its way.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.engines.llama import Session
from bench.table import Row, report
from rwkv_edge import Model, quantize
from rwkv_edge.convert.mix import MIXES
from rwkv_edge.text.scoring import log_softmax


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


def compared(path: Path, n_tokens: int, strategy: str) -> Row:
    with Model(path, "numpy") as model:
        n_vocab = model.shape.n_vocab
    tokens = np.random.default_rng(1).integers(1, n_vocab, n_tokens).tolist()
    mine, other, exact = ours(path, tokens, strategy), theirs(path, tokens, n_vocab), ours(path, tokens, "numpy fp32")
    return {
        "largest difference": f"{np.abs(mine - other).max():.2e}",
        "logits' std": f"{mine.std():.2f}",
        "same top-1": f"{(mine.argmax(axis=1) == other.argmax(axis=1)).mean():.3f}",
        "KL ours": f"{divergence(exact, mine):.2e}",
        "KL llama.cpp": f"{divergence(exact, other):.2e}",
    }


def divergence(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--types", default=",".join(MIXES))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--strategy", default="cpu")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    a = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in a.sources:
            for type in a.types.split(","):
                path = Path(folder) / f"{source.stem}-{type}.gguf"
                quantize(source, path, type)
                rows.append({"model": source.stem, "type": type, **compared(path, a.tokens, a.strategy)})
                path.unlink()
    report("llama_agreement", rows, [], a.save)


if __name__ == "__main__":
    main()
