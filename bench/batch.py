"""Tokens per second of several sequences decoded together, over one alone.

    python -m bench.batch /tmp/m/rwkv7-0.1b-q8_0.gguf [--threads 1,2] [--sequences 1,2,4,8] [--tokens 16] [--save]

rwkv_edge only: each step is one Model.forward_batch with a token of every sequence.
"""
import argparse
from pathlib import Path

from bench.command import arguments, opened, thread_counts
from bench.model_facts import model_facts
from bench.remote import Remote
from bench.rounds import interleave
from bench.table import Row, report

PROMPT = 8


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts = model_facts(path)
    counts = [int(n) for n in chosen.sequences.split(",")]

    def rate(contender: tuple[Remote, int]) -> float:
        remote, n_sequences = contender
        prompts = [[1 + i, *facts.tokens(PROMPT - 1)] for i in range(n_sequences)]
        tokens = [token % (facts.n_vocab - n_sequences) for token in facts.tokens(chosen.tokens)]
        return n_sequences * len(tokens) / float(remote.call("batch", prompts=prompts, tokens=tokens))

    with opened(chosen, facts, thread_counts(chosen), notes) as remotes:
        contenders = [(remote, n) for remote in remotes for n in counts]
        rates = dict(zip(contenders, interleave(contenders, rate, chosen.rounds), strict=True))
    return [
        {
            "file": path.name,
            "threads": str(remote.threads),
            "sequences": str(n),
            "tok/s": speed,
            "over one": f"{speed / rates[remote, counts[0]]:.2f}x" if counts[0] == 1 else None,
        }
        for (remote, n), speed in rates.items()
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sequences", default="1,2,4,8", help="with commas")
    parser.add_argument("--tokens", type=int, default=16, help="of each sequence in a measurement")
    parser.set_defaults(engines="ours")
    chosen = parser.parse_args()
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("batch", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
