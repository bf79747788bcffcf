"""Speed of the encoders, in MB/s of bfloat16 weights, 2 bytes each; of float32 it is twice that.

    python -m bench.encode [--formats q4_0,q4_k] [--threads 1,2] [--save]

How good their blocks are: bench.encode_errors, bench.encode_kl.
"""
import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from bench.table import Row, report
from rwkv_edge import auto
from rwkv_edge.backend import Encoder
from rwkv_edge.quant.encode.schemes import SCHEMES

PIECE = 1 << 18  # weights that a thread encodes at a time
SECONDS = 0.25  # about what one measurement takes
MOST_PIECES = 64


def rate(encode: Encoder, format: str, threads: int, rounds: int) -> float:
    """Weights a second."""
    x = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    step = PIECE // x.shape[1]
    start = time.perf_counter()
    encode(format, x[:step])
    enough = int(SECONDS * threads / (time.perf_counter() - start))
    pieces = [i * step % len(x) for i in range(min(max(threads, enough), MOST_PIECES))]
    with ThreadPoolExecutor(threads) as pool:

        def once() -> float:
            start = time.perf_counter()
            for _ in pool.map(lambda i: encode(format, x[i : i + step]), pieces):
                pass
            return len(pieces) * PIECE / (time.perf_counter() - start)

        return median([once() for _ in range(rounds + 1)][1:])


def speeds(format: str, threads: list[int], rounds: int) -> Row:
    encode = auto.encoder()
    start = time.perf_counter()
    encode(format, np.ones((1, 256), np.float32))
    row: Row = {"format": format, "first call s": time.perf_counter() - start}
    return row | {f"MB/s {count}T": 2e-6 * rate(encode, format, count, rounds) for count in threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(("q8_0", *SCHEMES)))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    rows = [speeds(format, threads, options.rounds) for format in options.formats.split(",")]
    notes = ["The first call compiles, once on a machine: the formats without offsets share a kernel, and those with offsets."]
    report("encode", rows, notes, options.save)


if __name__ == "__main__":
    main()
