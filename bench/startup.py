"""How long a new process takes to its first token, and how much memory it then holds.

    python -m bench.startup /tmp/m/rwkv7-0.1b-q8_0.gguf [--threads 1] [--rounds 3] [--save]

"import" and "open" are the library's and the model's share; "first token" counts from the start of the interpreter. The
first line has an empty cache (RWKV_EDGE_CACHE), so that everything is compiled; the others are medians, in turn, with the
file in the page cache. Memory after some more tokens: its peak, that less the file's size, and what there is beside the
pages of the file that were touched.
"""
import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.command import arguments, memory_columns, options, thread_counts, usable
from bench.engines import engine
from bench.model_facts import ModelFacts, model_facts
from bench.remote import Remote
from bench.table import Row, report

MORE = 4  # tokens before memory is looked at
Sample = dict[str, Any]  # column -> number


def start(name: str, facts: ModelFacts, threads: int, chosen: argparse.Namespace, cache: str) -> Sample:
    """One process, from its start to its first token."""
    with Remote(name, facts.path, threads, options(chosen, facts), {"RWKV_EDGE_CACHE": cache}) as remote:
        remote.call("prompt", tokens=facts.tokens(1))
        sample = {f"{what} s": seconds for what, seconds in remote.times.items()}
        sample["first token s"] = remote.answered - remote.start
        remote.call("steps", tokens=facts.tokens(MORE))
        return sample | memory_columns(remote.call("memory"), facts)


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts, names = model_facts(path), usable(chosen, path, notes)
    read_through(path)
    rows: list[Row] = []
    for threads in thread_counts(chosen):
        with tempfile.TemporaryDirectory() as cache:
            label = {"file": path.name, "threads": str(threads)}
            if "ours" in names:
                rows.append({**label, "engine": "rwkv_edge, first run ever", **start("ours", facts, threads, chosen, cache)})
            samples: dict[str, list[Sample]] = {name: [] for name in names}
            for _ in range(chosen.rounds):
                for name in names:
                    samples[name].append(start(name, facts, threads, chosen, cache))
        for name, found in samples.items():
            rows.append({**label, "engine": engine(name).TITLE, **{k: median(s[k] for s in found) for k in found[0]}})
    return rows


def read_through(path: Path) -> None:
    """Into the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.set_defaults(threads="1")
    chosen = parser.parse_args()
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("startup", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
