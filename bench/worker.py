"""One engine in a process of its own; started by bench/remote.py as `python -m bench.worker SPEC`.

SPEC: JSON with engine, path, threads, options. The first answer tells when things happened; then each line of standard input
is a command {"do": NAME, ...}, answered by a line of JSON. What libraries print goes to standard error.
"""
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    from bench.engines import engine

    module = engine(spec["engine"])
    start = time.perf_counter()
    module.load()
    imported = time.perf_counter()
    session = module.Session(spec["path"], spec["threads"], spec["options"])
    opened = time.perf_counter()
    answers.write(json.dumps({"import": imported - start, "open": opened - imported}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(COMMANDS[command.pop("do")](session, **command)) + "\n")


def prompt(session: Any, tokens: list[int]) -> float:
    """Seconds for a new sequence's first tokens, all at once."""
    start = time.perf_counter()
    session.prompt(tokens)
    return time.perf_counter() - start


def steps(session: Any, tokens: list[int]) -> float:
    """Seconds for these tokens one by one, in the sequence as it stands."""
    start = time.perf_counter()
    for token in tokens:
        session.step(token)
    return time.perf_counter() - start


def batch(session: Any, prompts: list[list[int]], tokens: list[int]) -> float:
    """Seconds for each of `tokens` fed to all of these new sequences together."""
    session.prompt_batch(prompts)
    start = time.perf_counter()
    for token in tokens:
        session.step_batch([token + i for i in range(len(prompts))])
    return time.perf_counter() - start


def pretend(session: Any, position: int) -> None:
    session.pretend_position(position)


def keep(session: Any, name: str) -> None:
    session.keep(name)


def recall(session: Any, name: str) -> None:
    session.recall(name)


def read(session: Any, threads: int) -> float:
    return float(session.read(threads))


def memory(session: Any) -> dict[str, int]:
    """Bytes: peak of all resident memory, mapped files included; now, private memory, and all but the pages of the model's
    file; empty where there is no /proc."""
    wanted = {"VmHWM": "peak", "RssAnon": "private", "VmRSS": "resident"}
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        with open("/proc/self/smaps") as file:
            mapped = resident_pages(file, json.loads(sys.argv[1])["path"])
    except OSError:
        return {}
    found = {name: int(fields[field].split()[0]) * 1024 for field, name in wanted.items()}
    return {"peak": found["peak"], "private": found["private"], "beside": found["resident"] - mapped}


def resident_pages(smaps: Iterable[str], path: str) -> int:
    """Bytes of this file that are mapped and in memory."""
    total, ours = 0, False
    for line in smaps:
        if "-" in line.split(" ", 1)[0]:  # a mapping: its addresses, ..., its file
            ours = line.rstrip().endswith(path)
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


COMMANDS = {f.__name__: f for f in (prompt, steps, batch, pretend, keep, recall, read, memory)}

if __name__ == "__main__":
    main()
