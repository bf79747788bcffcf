"""Speed and memory of the whole `rwkv-edge quantize` command, from the start of Python to the file that is safely on the disk.

    python -m bench.quantize MODEL.pth ... [--types q4_0,q4_k_m ...] [--threads 1,2] [--save]

MB/s: of the source's weights. peak MB: of resident memory, with the pages of the source and the code that are mapped; below
it, in the note, what Python with the encoders' library takes alone. The source is in the page cache.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.startup import read_through
from bench.table import Row, report
from rwkv_edge.weights import open_weights

TYPES = "q8_0,q4_0,q4_k_m,q5_k_m,q6_k,q3_k_m,q2_k,iq4_xs,iq3_s"
ALONE = "import numpy as n; from rwkv_edge import auto; auto.encoder()('q4_0', n.ones((1, 256), n.float32))"


def measured(command: list[str]) -> tuple[float, float]:
    """(seconds, peak of resident memory in MB) of a process. Raises CalledProcessError."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def quantized(source: Path, types: list[str], threads: list[int], folder: Path) -> list[Row]:
    nbytes, target, rows = open_weights(source).nbytes, folder / "out.gguf", []
    for type in types:
        for count in threads:
            command = [sys.executable, "-m", "rwkv_edge", "quantize", str(source), str(target), "--type", type]
            seconds, peak = measured([*command, "--threads", str(count)])
            row: Row = {"source": source.name, "type": type, "threads": str(count), "from MB": nbytes / 1e6}
            row |= {"to MB": target.stat().st_size / 1e6, "seconds": seconds, "MB/s": nbytes / 1e6 / seconds, "peak MB": peak}
            rows.append(row)
            target.unlink()
    return rows


def within(wrapper: str, arguments: list[str]) -> list[Row]:
    """`quantized` in a process that `wrapper` starts, so that what the wrapper waits for is not measured."""
    command = [*shlex.split(wrapper), sys.executable, "-m", "bench.quantize", *arguments]
    rows: list[Row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="models (bench.make_model makes some)")
    parser.add_argument("--types", nargs="+", default=[TYPES], help="with commas; for each source, the last for the rest")
    parser.add_argument("--threads", default="2", help="thread counts, with commas")
    parser.add_argument("--folder", help="where the output goes for a moment")
    parser.add_argument("--within", default="", metavar="COMMAND", help='that starts what is measured, such as "nice -n 5"')
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # what `within` calls: prints the rows as JSON
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    if options.one:
        print(json.dumps(quantized(options.sources[0], options.types[0].split(","), threads, options.one)))
        return
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for i, source in enumerate(options.sources):
            read_through(source)
            types = options.types[min(i, len(options.types) - 1)]
            arguments = [str(source), "--types", types, "--threads", options.threads, "--one", folder]
            found += within(options.within, arguments)
    alone = measured([sys.executable, "-c", ALONE])[1]
    report("quantize", found, [f"Python with the compiled encoders alone: peak {alone:.0f} MB."], options.save)


if __name__ == "__main__":
    main()
