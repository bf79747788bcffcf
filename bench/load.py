"""How long the command takes to its first token where a strategy converts the weights while they load, and its peak memory.

    python -m bench.load MODEL.pth ... [--words q4_k,q8_0] [--threads 1,2] [--save]

From the start of Python to the end of `rwkv-edge run MODEL -p Hello -n 1`, one line each: converted in memory; converted with
--cache, which writes the result and maps it; the next start with --cache. The source is in the page cache, the kernels are
compiled. Peak memory: all that is resident, pages of mapped files included.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.quantize import measured
from bench.startup import read_through
from bench.table import Row, report
from rwkv_edge.machine.user_cache import OVERRIDE

STARTS = {"converted in memory": [], "converted and kept": ["--cache"], "kept": ["--cache"]}  # in this order


def command(source: Path, word: str, threads: int) -> list[str]:
    run = [sys.executable, "-m", "rwkv_edge", "run", str(source), "-p", "Hello", "-n", "1"]
    return [*run, "--strategy", f"cpu {word}", "--threads", str(threads)]


def within(wrapper: str, call: list[str]) -> tuple[float, float]:
    """`measured` in a process that `wrapper` starts, so that what the wrapper waits for is not measured."""
    one = [*shlex.split(wrapper), sys.executable, "-m", "bench.load", "--one", json.dumps(call), "-"]
    seconds, peak = json.loads(subprocess.run(one, check=True, stdout=subprocess.PIPE).stdout)
    return seconds, peak


def rows(options: argparse.Namespace) -> list[Row]:
    found: list[Row] = []
    for source in options.sources:
        read_through(source)
        for word in options.words.split(","):
            for threads in options.threads.split(","):
                call = command(source, word, int(threads))
                label: Row = {"source": source.name, "strategy": f"cpu {word}", "threads": threads}
                with tempfile.TemporaryDirectory(dir=options.folder) as cache:
                    os.environ[OVERRIDE] = cache
                    measured(call)  # compiles
                    for start, more in STARTS.items():
                        seconds, peak = within(options.within, [*call, *more])
                        found.append({**label, "weights": start, "first token s": seconds, "peak MB": peak})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="models (bench.make_model makes some)")
    parser.add_argument("--words", default="q4_k", help="weight formats, with commas")
    parser.add_argument("--threads", default="2", help="thread counts, with commas")
    parser.add_argument("--folder", help="where the cache is for a moment")
    parser.add_argument("--within", default="", metavar="COMMAND", help='that starts each measurement, such as "nice -n 5"')
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)  # what `within` calls
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one)))
        return
    report("load", rows(options), [], options.save)


if __name__ == "__main__":
    main()
