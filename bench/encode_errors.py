"""Root mean squared error of our encoders' blocks / that of ggml's (below 1: ours is smaller); needs llama-cpp-python.

    python -m bench.encode_errors [--formats q4_0,q4_k] [--save]

"importance": random importance of the columns is given to both, and the errors are weighted by it.
"""
import argparse

import numpy as np
from numpy.typing import NDArray

from bench import reference_encoder
from bench.held_out import matrices
from bench.table import Row, report
from rwkv_edge import auto
from rwkv_edge.backend import Encoder
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.weights import open_weights

Floats = NDArray[np.float32]


def data() -> dict[str, Floats]:
    """Random ones and trained ones; [rows, width]."""
    rng = np.random.default_rng(0)
    trained = matrices(open_weights(MODEL_PATH))
    return {
        "normal": rng.standard_normal((256, 1024)).astype(np.float32) * np.float32(0.02),
        "Student t, 4": rng.standard_t(4, (256, 1024)).astype(np.float32) * np.float32(0.02),
        "trained": np.concatenate([tensor.decode().reshape(-1, 256) for tensor in trained.values()]),
    }


def error(encode: Encoder, format: str, x: Floats, importance: Floats | None) -> float:
    miss = (decode_blocks(encode(format, x, importance), format).astype(np.float64) - x) ** 2
    return float(np.sqrt((miss if importance is None else miss * importance).mean()))


def ratios(format: str, matrices_by_name: dict[str, Floats]) -> Row:
    row: Row = {"format": format}
    for name, x in matrices_by_name.items():
        importance = np.random.default_rng(1).exponential(size=(x.shape[1],)).astype(np.float32)
        for label, columns in ((name, None), (f"{name}, importance", importance)):
            ours, theirs = (error(encode, format, x, columns) for encode in (auto.encoder(), reference_encoder.encode))
            row[label] = f"{ours / theirs:.3f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(("q8_0", *SCHEMES)))
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    matrices_by_name = data()
    report("encode_errors", [ratios(format, matrices_by_name) for format in options.formats.split(",")], [], options.save)


if __name__ == "__main__":
    main()
