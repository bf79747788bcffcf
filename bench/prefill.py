"""Tokens per second of a prompt fed at once, of every engine on the same file.

    python -m bench.prefill /tmp/m/rwkv7-0.1b-q8_0.gguf [--threads 1,2] [--tokens 512] [--rounds 3] [--save]

"GMAC/s" counts the multiplications with matrices, without the head, which only the last token needs.
"""
import argparse
from pathlib import Path

from bench.command import advantage, arguments, memory_columns, opened, thread_counts
from bench.engines import engine
from bench.model_facts import model_facts
from bench.rounds import interleave
from bench.table import Row, report


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts = model_facts(path)
    tokens = facts.tokens(chosen.tokens)
    with opened(chosen, facts, thread_counts(chosen), notes) as remotes:
        rates = interleave(remotes, lambda r: len(tokens) / float(r.call("prompt", tokens=tokens)), chosen.rounds)
        memory = [remote.call("memory") for remote in remotes]
    return [
        {
            "file": path.name,
            "engine": engine(remote.engine).TITLE,
            "threads": str(remote.threads),
            "tok/s": rate,
            "ours is": ratio,
            "GMAC/s": rate * facts.prompt_macs / 1e9,
            **memory_columns(used, facts),
        }
        for remote, rate, ratio, used in zip(remotes, rates, advantage(remotes, rates), memory, strict=True)
    ]


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--tokens", type=int, default=512, help="of the prompt")
    chosen = parser.parse_args()
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("prefill", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
