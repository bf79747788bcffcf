"""How long opening a large model takes, and how much private memory.

    python -m bench.open_file [FILE] [--gigabytes 3] [--layers 32] [--folder /tmp]

With FILE: drops that file from the system's cache first, and so measures the disk too (Linux). Without:
writes a sparse RWKV-7 checkpoint of about that size as .pth and as .safetensors (its numbers are holes in the file),
opens each in a new process and prints seconds and the growth of private memory (/proc/self/smaps_rollup).
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.checkpoints.pth import Window, ZipEntry, contiguous_strides, end_records, headers, program

MEASURE = """
import sys, time
import numpy
def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))
from rwkv_edge.weights import open_weights, pth, safetensors
from rwkv_edge.weights.names import fla, hf, original, web_rwkv
before, start = private(), time.perf_counter()
weights = open_weights(sys.argv[1])
seconds, after = time.perf_counter() - start, private()
memory = f"{(after - before) / 1024:.1f} MiB private"
print(f"{sys.argv[2]}: {seconds:.4f} s, {memory}, {len(weights.tensors)} tensors, {weights.nbytes / 1e9:.2f} GB")
"""


def shapes(gigabytes: float, n_layer: int) -> dict[str, tuple[int, ...]]:
    """An RWKV-7 of that many layers whose width makes bfloat16 weights of about that size."""
    c = int(math.sqrt(gigabytes * 1e9 / 2 / (12.5 * n_layer))) // 64 * 64
    matrices = {f"att.{name}.weight": (c, c) for name in ("receptance", "key", "value", "output")}
    vectors = {f"att.{name}0": (1, 1, c) for name in "wav"} | {f"att.x_{name}": (1, 1, c) for name in "rwkvag"}
    vectors |= {"att.k_k": (1, 1, c), "att.k_a": (1, 1, c)}
    low_rank = {f"att.{name}{half}": (c, 96) if half == 1 else (96, c) for name in "wavg" for half in (1, 2)}
    norms = {f"{name}.{part}": (c,) for name in ("ln1", "ln2", "att.ln_x") for part in ("weight", "bias")}
    ffn = {"ffn.x_k": (1, 1, c), "ffn.key.weight": (4 * c, c), "ffn.value.weight": (c, 4 * c)}
    layer = matrices | vectors | low_rank | norms | ffn | {"att.r_k": (c // 64, 64)}
    blocks = {f"blocks.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()}
    return {"emb.weight": (65536, c), **blocks, "head.weight": (65536, c)}


def write_sparse(path: Path, pieces: Iterator[bytes | int]) -> None:
    """Bytes as they are; a number is that many zero bytes, left as a hole."""
    with path.open("wb") as file:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                file.seek(piece, 1)
        file.truncate()


def pth_pieces(tensors: dict[str, tuple[int, ...]]) -> Iterator[bytes | int]:
    windows = {
        name: Window(str(i), "bf16", math.prod(shape), 0, shape, contiguous_strides(shape))
        for i, (name, shape) in enumerate(tensors.items())
    }
    parts: list[tuple[ZipEntry, int | None]] = [(ZipEntry("m/data.pkl", program(windows)), None)]
    parts += [(ZipEntry(f"m/data/{w.key}", b""), 2 * w.storage_size) for w in windows.values()]
    at, directory = 0, b""
    for entry, length in parts:
        local, record = headers(entry, at, length=length)
        directory += record
        yield local
        yield entry.data if length is None else length
        at += len(local) + (len(entry.data) if length is None else length)
    yield directory + end_records(at, len(directory), len(parts))


def safetensors_pieces(tensors: dict[str, tuple[int, ...]]) -> Iterator[bytes | int]:
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    yield len(raw).to_bytes(8, "little") + raw
    yield at - 1
    yield b"\0"


def drop_from_cache(path: Path) -> None:
    """Pages that another process has mapped stay."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.file:
        drop_from_cache(arguments.file)
        subprocess.run([sys.executable, "-c", MEASURE, str(arguments.file), f"{arguments.file}, cold"], check=True)
        return
    tensors = shapes(arguments.gigabytes, arguments.layers)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, pieces in (("model.pth", pth_pieces(tensors)), ("model.safetensors", safetensors_pieces(tensors))):
            path = Path(folder, name)
            write_sparse(path, pieces)
            subprocess.run([sys.executable, "-c", MEASURE, str(path), name], check=True)


if __name__ == "__main__":
    main()
