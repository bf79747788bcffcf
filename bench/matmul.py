"""Products of one matrix in every format on the CPU backend: GB/s of weights for one token, GMAC/s for many.

    python -m bench.matmul [--formats q8_0,q4_k] [--threads 1,2] [--tokens 1,8,252] [--rows N] [--width N]

Each line stands next to a read loop measured just before it, on as many threads: what one token could reach.
"""
import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rwkv_edge_cpu import backend as cpu

from bench.engines.bandwidth import Session
from rwkv_edge.backend import Batch, CompileOptions
from rwkv_edge.plan import PlanBuilder
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

ENOUGH_BYTES = 256 << 20  # of weights for one token: more than any cache


def matrix(format: str, n_out: int, width: int) -> Tensor:
    """Small random bytes: what they mean does not change the time, as long as scales are finite numbers."""
    size = FORMATS[format]
    bytes_: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 60, (n_out, size.row_bytes(width)), np.uint8)
    return Tensor("w", (n_out, width), format, bytes_.view(FLOAT_STORAGE[format]) if size.is_float else bytes_)


def product(format: str, n_tokens: int, threads: int, n_out: int, width: int) -> tuple[Callable[[], object], int]:
    """(a step that multiplies with one or several such matrices, bytes of them)."""
    weight = matrix(format, n_out, width)
    copies = -(-ENOUGH_BYTES // weight.nbytes) if n_tokens == 1 else 1
    builder = PlanBuilder()
    values = np.random.default_rng(0).standard_normal((n_tokens, width)).astype(np.float32)
    x = builder.embed(Tensor("x", values.shape, "f32", values))
    for _ in range(copies):
        y = builder.matmul(x, Tensor("w", weight.shape, format, weight.data.copy()))
    executable = cpu.compile(builder.finish(y), CompileOptions(threads=threads))
    tokens = np.arange(n_tokens, dtype=np.int32)
    batch = Batch(tokens, [n_tokens], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
    return lambda: executable.run(batch), copies * weight.nbytes


def seconds(step: Callable[[], object], repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", default="1,8,252")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    loop = Session("", 1, {})
    print("| format | threads | tokens | GB/s | read loop | GMAC/s |\n|---|---|---|---|---|---|")
    for format in options.formats.split(","):
        for threads in map(int, options.threads.split(",")):
            for n_tokens in map(int, options.tokens.split(",")):
                step, nbytes = product(format, n_tokens, threads, options.rows, options.width)
                reads = loop.read(threads)
                took = seconds(step, options.repeats)
                products = nbytes / FORMATS[format].row_bytes(options.width) * options.width * n_tokens
                rates = f"{nbytes / took / 1e9:.1f} | {reads:.1f} | {products / took / 1e9:.1f}"
                print(f"| {format} | {threads} | {n_tokens} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
