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
ALONE = "import rwkv_edge.registry as r, numpy as n; r.encoder()('q4_0', n.ones((1, 256), n.float32))"


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


def quantized(source: Path, type: str, threads: int, folder: Path) -> Row:
    target = folder / "out.gguf"
    command = [sys.executable, "-m", "rwkv_edge", "quantize", str(source), str(target), "--type", type]
    seconds, peak = measured([*command, "--threads", str(threads)])
    size = target.stat().st_size / 1e6
    target.unlink()
    return {"seconds": seconds, "to MB": size, "peak MB": peak}


def within(wrapper: str, source: Path, type: str, threads: int, folder: Path) -> Row:
    """`quantized` in a process that `wrapper` starts, so that what the wrapper waits for is not measured."""
    call = [sys.executable, "-m", "bench.quantize", str(source), "--types", type, "--threads", str(threads)]
    command = [*shlex.split(wrapper), *call, "--one", str(folder)]
    row: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return row


def rows(options: argparse.Namespace, threads: list[int]) -> list[Row]:
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for i, source in enumerate(options.sources):
            nbytes = open_weights(source).nbytes
            read_through(source)
            for type in options.types[min(i, len(options.types) - 1)].split(","):
                for count in threads:
                    row = within(options.within, source, type, count, Path(name))
                    speed = nbytes / 1e6 / float(str(row["seconds"]))
                    label: Row = {"source": source.name, "type": type, "threads": str(count)}
                    found.append({**label, "from MB": nbytes / 1e6, **row, "MB/s": speed})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="models (bench.make_model makes some)")
    parser.add_argument("--types", nargs="+", default=[TYPES], help="with commas; for each source, the last for the rest")
    parser.add_argument("--threads", default="2", help="thread counts, with commas")
    parser.add_argument("--folder", help="where the output goes for a moment")
    parser.add_argument("--within", default="", metavar="COMMAND", help='that starts each measurement, such as "nice -n 5"')
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # what `within` calls: one measurement, as JSON
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    if options.one:
        print(json.dumps(quantized(options.sources[0], options.types[0], threads[0], options.one)))
        return
    found = rows(options, threads)
    alone = measured([sys.executable, "-c", ALONE])[1]
    report("quantize", found, [f"Python with the compiled encoders alone: peak {alone:.0f} MB."], options.save)


if __name__ == "__main__":
    main()
