"""Encoders: speed, and root mean squared error beside that of ggml's encoders (where llama-cpp-python is installed).

    python -m bench.encode [--formats q4_0,q4_k] [--threads 1,2] [--save]      speed
    python -m bench.encode --errors [--formats q4_0,q4_k] [--save]             errors, ours / ggml's

Speed is in MB/s of bfloat16 weights, 2 bytes each; of float32 it is twice that. Errors are ratios: below 1 ours is smaller.
What they do to a model's predictions: bench.encode_kl.
"""
import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench import reference_encoder
from bench.encode_kl import matrices
from bench.table import Row, report
from rwkv_edge import registry
from rwkv_edge.backend import Encoder
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.weights import open_weights

Floats = NDArray[np.float32]
FORMATS = ("q8_0", *SCHEMES)
PIECE = 1 << 18  # weights that a thread encodes at a time
SECONDS = 0.25  # about what one measurement takes


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


def rate(encode: Encoder, format: str, threads: int, rounds: int) -> float:
    """Weights a second."""
    x = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    step = PIECE // x.shape[1]
    start = time.perf_counter()
    encode(format, x[:16])
    enough = max(threads, int(SECONDS * threads * 16 / (time.perf_counter() - start)) // step)
    pieces = [i * step % len(x) for i in range(min(enough, 64))]
    with ThreadPoolExecutor(threads) as pool:

        def once() -> float:
            start = time.perf_counter()
            for _ in pool.map(lambda i: encode(format, x[i : i + step]), pieces):
                pass
            return len(pieces) * PIECE / (time.perf_counter() - start)

        return median([once() for _ in range(rounds + 1)][1:])


def speeds(format: str, threads: list[int], rounds: int) -> Row:
    encode = registry.encoder()
    start = time.perf_counter()
    encode(format, np.ones((1, 256), np.float32))
    row: Row = {"first call s": time.perf_counter() - start}
    return row | {f"MB/s {count}T": 2e-6 * rate(encode, format, count, rounds) for count in threads}


def errors(format: str, matrices_by_name: dict[str, Floats]) -> Row:
    row: Row = {}
    for name, x in matrices_by_name.items():
        importance = np.random.default_rng(1).exponential(size=x.shape[1]).astype(np.float32)
        for label, columns in ((name, None), (f"{name}, importance", importance)):
            ours, theirs = (error(encode, format, x, columns) for encode in (registry.encoder(), reference_encoder.encode))
            row[label] = f"{ours / theirs:.3f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--errors", action="store_true", help="measure errors, not speed")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    matrices_by_name = data() if options.errors and reference_encoder.available() else {}
    rows: list[Row] = []
    for format in options.formats.split(","):
        row: Row = {"format": format}
        rows.append(row | errors(format, matrices_by_name) if options.errors else row | speeds(format, threads, options.rounds))
    report("encode_errors" if options.errors else "encode", rows, [], options.save)


if __name__ == "__main__":
    main()
