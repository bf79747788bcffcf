"""What is left of decode speed when another process keeps one of two cores busy.

    python -m bench.contention /tmp/m/rwkv7-0.1b-q8_0.gguf [--threads 1,2] [--tokens 64] [--rounds 5] [--cores 2] [--save]

Everything runs on `--cores` cores. In each round every engine decodes alone, then beside a process that does nothing but
count, which the system may move between the cores. The first second of each is not measured: engines may need some time to
find out.
"""
import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.command import arguments, opened, thread_counts
from bench.decode import decode_rate
from bench.engines import engine
from bench.machine import use_cores
from bench.model_facts import model_facts
from bench.remote import Remote
from bench.rounds import interleave
from bench.table import Row, report

SETTLE = 1.0  # seconds


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes all of a core; stopped until it is wanted."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts = model_facts(path)
    with opened(chosen, facts, thread_counts(chosen), notes) as remotes, busy_process() as busy:

        def rate(contender: tuple[Remote, bool]) -> float:
            remote, contended = contender
            if contended:
                busy.send_signal(signal.SIGCONT)
            begin = time.monotonic()
            while time.monotonic() - begin < SETTLE:
                decode_rate(remote, facts, chosen.tokens)
            speed = decode_rate(remote, facts, chosen.tokens)
            busy.send_signal(signal.SIGSTOP)
            return speed

        quiet = [(remote, False) for remote in remotes]
        rates = interleave([*quiet, *((remote, True) for remote in remotes)], rate, chosen.rounds)
    return [
        {
            "file": path.name,
            "engine": engine(remote.engine).TITLE,
            "threads": str(remote.threads),
            "alone tok/s": alone,
            "beside a busy process tok/s": beside,
            "kept": f"{100 * beside / alone:.0f} %",
        }
        for remote, alone, beside in zip(remotes, rates, rates[len(remotes) :], strict=False)
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="a measurement")
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args()
    use_cores(chosen.cores)
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("contention", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
