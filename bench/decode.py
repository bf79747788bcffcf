"""Tokens per second one at a time, of every engine on the same file, against what the memory allows.

    python -m bench.decode /tmp/m/rwkv7-0.1b-q8_0.gguf [--threads 1,2] [--tokens 32] [--rounds 5] [--save]

"GB/s" is the weights a token needs (all but the embedding) times tokens/s; "of read" compares it with a loop in the same run
that only reads, on as many threads. An engine that skips weights of zero activations can be above 100 %. "peak" is resident
memory with the mapped file in it, "private" what is not the file.
"""
import argparse
from pathlib import Path

from bench.command import advantage, arguments, memory_columns, opened, thread_counts
from bench.engines import engine
from bench.model_facts import ModelFacts, model_facts
from bench.remote import Remote
from bench.rounds import interleave
from bench.table import Row, report

PROMPT = 8


def decode_rate(remote: Remote, facts: ModelFacts, n_tokens: int) -> float:
    """Tokens per second behind a short prompt."""
    remote.call("prompt", tokens=facts.tokens(PROMPT))
    return n_tokens / float(remote.call("steps", tokens=facts.tokens(n_tokens)))


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts, counts = model_facts(path), thread_counts(chosen)
    with opened(chosen, facts, counts, notes) as remotes, Remote("bandwidth", path, 1, {}) as reader:

        def measured(contender: Remote | int) -> float:
            if isinstance(contender, int):
                return float(reader.call("read", threads=contender))
            return decode_rate(contender, facts, chosen.tokens)

        contenders: list[Remote | int] = [*counts, *remotes]
        rates = interleave(contenders, measured, chosen.rounds)
        read = dict(zip(counts, rates, strict=False))
        memory = [remote.call("memory") for remote in remotes]
    rates = rates[len(counts) :]
    ours = advantage(remotes, rates)
    rows: list[Row] = []
    for remote, rate, ratio, used in zip(remotes, rates, ours, memory, strict=True):
        speed = rate * facts.bytes_per_token / 1e9
        rows.append(
            {
                "file": path.name,
                "engine": engine(remote.engine).TITLE,
                "threads": str(remote.threads),
                "tok/s": rate,
                "ours is": ratio,
                "GB/s": speed,
                "of read": f"{100 * speed / read[remote.threads]:.0f} % of {read[remote.threads]:.1f}",
                **memory_columns(used, facts),
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=32, help="a measurement")
    chosen = parser.parse_args()
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("decode", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
