"""Cost of a token near the start of a context and far into it: an RWKV's state has one size, so they should be equal.

    python -m bench.position /tmp/m/rwkv7-0.1b-q8_0.gguf [--near 10] [--far 100000] [--fed 2048] [--save]

Of the far sequence's tokens, `--fed` are really fed; then it is told that it is at `--far`. Give both the same number to
feed them all. The two sequences are measured in turn, in the same process.
"""
import argparse
from pathlib import Path

from bench.command import arguments, opened, thread_counts
from bench.model_facts import model_facts
from bench.remote import Remote
from bench.rounds import interleave
from bench.table import Row, report


def measure(path: Path, chosen: argparse.Namespace, notes: list[str]) -> list[Row]:
    facts = model_facts(path)
    rows: list[Row] = []
    with opened(chosen, facts, thread_counts(chosen), notes) as remotes:
        for remote in remotes:
            for name, fed, position in (("near", chosen.near, chosen.near), ("far", chosen.fed, chosen.far)):
                remote.call("prompt", tokens=facts.tokens(fed))
                remote.call("pretend", position=position)
                remote.call("keep", name=name)

            def seconds(contender: tuple[Remote, str]) -> float:
                remote, name = contender
                remote.call("recall", name=name)
                return float(remote.call("steps", tokens=facts.tokens(chosen.tokens)) / chosen.tokens)

            near, far = interleave([(remote, "near"), (remote, "far")], seconds, chosen.rounds)
            rows.append(
                {
                    "file": path.name,
                    "threads": str(remote.threads),
                    f"ms at {chosen.near}": 1e3 * near,
                    f"ms at {chosen.far}": 1e3 * far,
                    "ratio": f"{far / near:.3f}",
                }
            )
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--near", type=int, default=10)
    parser.add_argument("--far", type=int, default=100_000)
    parser.add_argument("--fed", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16, help="a measurement")
    parser.set_defaults(engines="ours")
    chosen = parser.parse_args()
    notes: list[str] = []
    rows = [row for path in chosen.files for row in measure(path, chosen, notes)]
    report("position", rows, notes, chosen.save)


if __name__ == "__main__":
    main()
