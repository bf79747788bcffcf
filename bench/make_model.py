"""Model files of real shapes with random weights, for measurements.

    python -m bench.make_model /tmp/m/rwkv7-0.1b.pth --version 7 --layers 12 --embd 768 --ffn-sparsity 0.8 \\
        --gguf bf16,q8_0,q6_k,q4_0,q4_k_m --check

Released shapes (layers, embd): 0.1B 12, 768; 0.4B 24, 1024; 1.5B 24, 2048; 2.9B 32, 2560. The GGUFs lie beside the .pth,
named after it and their type; types other than f32, f16, bf16 and q8_0 need the llama-cpp-python package. `--check` runs
some tokens through the .pth and prints how the activations behave.
"""
import argparse
import time
from pathlib import Path

import rwkv_edge
from bench.llama_quantize import quantize
from bench.model_check import check
from bench.pth_stream import write_pth
from bench.random_weights import recipes
from bench.recipes import pieces
from bench.sizes import HEAD_SIZE, VERSIONS, Sizes

OWN_TYPES = ("f32", "f16", "bf16", "q8_0")  # written by this package; others by llama.cpp, from bf16: peers' own files


def make_pth(path: Path, sizes: Sizes, dtype: str = "bf16", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = recipes(sizes, seed)
    write_pth(path, {name: (part.shape, pieces(name, part, seed)) for name, part in parts.items()}, dtype)


def make_gguf(source: Path, type: str) -> Path:
    """The GGUF of `type` beside `source`; its bf16 sibling is made too where llama.cpp quantizes from it."""
    target = source.with_name(f"{source.stem}-{type}.gguf")
    if type in OWN_TYPES:
        rwkv_edge.quantize(source, target, type)
        return target
    base = source.with_name(f"{source.stem}-bf16.gguf")
    if not base.exists() or base.stat().st_mtime < source.stat().st_mtime:
        rwkv_edge.quantize(source, base, "bf16")
    quantize(base, target, type.removesuffix(":pure"), pure=type.endswith(":pure"))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .pth to write")
    parser.add_argument("--version", choices=VERSIONS, default="7")
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--embd", type=int, required=True, help=f"channels, a multiple of {HEAD_SIZE}")
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--ffn-sparsity", type=float, help="fraction of zeros behind channel mixing's squared relu")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gguf", default="", help="types to convert to, with commas; TYPE:pure for one type throughout")
    parser.add_argument("--check", action="store_true")
    a = parser.parse_args()
    if a.embd % HEAD_SIZE:
        parser.error(f"--embd must be a multiple of {HEAD_SIZE}")
    if a.ffn_sparsity is not None and not 0 < a.ffn_sparsity < 1:
        parser.error("--ffn-sparsity must be between 0 and 1")
    start = time.perf_counter()
    make_pth(a.out, Sizes(a.version, a.layers, a.embd, a.vocab, a.ffn_sparsity), a.dtype, a.seed)
    _report(a.out, start)
    for type in filter(None, a.gguf.split(",")):
        start = time.perf_counter()
        _report(make_gguf(a.out, type), start)
    if a.check:
        print(check(a.out))


def _report(path: Path, start: float) -> None:
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
