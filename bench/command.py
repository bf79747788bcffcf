"""What the speed commands share: their options, and the engines that can run a file, opened."""
import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.engines import ENGINES, engine
from bench.machine import cores
from bench.model_facts import ModelFacts
from bench.remote import Remote
from bench.table import Row


def arguments(doc: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="models (bench.make_model makes some)")
    parser.add_argument("--threads", default="1,2", help="thread counts, with commas")
    parser.add_argument("--rounds", type=int, default=rounds, help="each engine is measured once in each, in turn")
    parser.add_argument("--engines", default=",".join(ENGINES), help="with commas")
    parser.add_argument("--strategy", default="cpu", help="of rwkv_edge")
    parser.add_argument("--dense", action="store_true", help="rwkv_edge reads also the weights that meet a zero of relu²")
    parser.add_argument("--official-strategy", default="cpu fp32", help="of the rwkv package")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    return parser


def thread_counts(chosen: argparse.Namespace) -> list[int]:
    counts = [int(n) for n in chosen.threads.split(",")]
    return [n for n in counts if n <= cores()] or [cores()]


def usable(chosen: argparse.Namespace, path: Path, notes: list[str]) -> list[str]:
    """The engines that can run the file here; adds a line to `notes` for each that cannot."""
    names = []
    for name in chosen.engines.split(","):
        if reason := engine(name).missing(path):
            note = f"{path.name}: {engine(name).TITLE} skipped: it {reason}."
            notes.append(note)
        else:
            names.append(name)
    return names


def options(chosen: argparse.Namespace, facts: ModelFacts) -> dict[str, str]:
    return {
        "strategy": chosen.strategy,
        "dense": "yes" if chosen.dense else "no",
        "official_strategy": chosen.official_strategy,
        "version": facts.version,
    }


@contextmanager
def opened(
    chosen: argparse.Namespace, facts: ModelFacts, threads: Sequence[int], notes: list[str]
) -> Iterator[list[Remote]]:
    """A process for every engine and thread count, ours first for each count; one that cannot open the file is a note."""
    names = usable(chosen, facts.path, notes)
    with ExitStack() as stack:
        remotes = []
        for count in threads:
            for name in names:
                try:
                    remotes.append(stack.enter_context(Remote(name, facts.path, count, options(chosen, facts))))
                except RuntimeError as error:
                    notes.append(f"{error}.")
        yield remotes


def advantage(remotes: Sequence[Remote], rates: Sequence[float]) -> list[str | None]:
    """How many times as fast ours is as each peer on as many threads."""
    pairs = list(zip(remotes, rates, strict=True))
    ours = {remote.threads: rate for remote, rate in pairs if remote.engine == "ours"}
    return [
        f"{ours[remote.threads] / rate:.2f}x" if remote.engine != "ours" and remote.threads in ours else None
        for remote, rate in pairs
    ]


def memory_columns(used: dict[str, int], facts: ModelFacts) -> Row:
    """used: the worker's answer to "memory", empty where the system does not tell."""
    if not used:
        return {}
    peak, private, beside = (used[name] / 1e6 for name in ("peak", "private", "beside"))
    return {"peak MB": peak, "over file MB": peak - facts.file_bytes / 1e6, "beside file MB": beside, "private MB": private}
