"""The one table that a command prints: Markdown, with machine, date and command above it."""
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import describe

RESULTS = Path(__file__).parent / "results"
Row = dict[str, str | float | None]


def cell(value: str | float | None) -> str:
    """Three digits are enough of a measurement."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def render(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in names]

    def text(line: Sequence[str]) -> str:
        cells = [c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, is_text, strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * w) if t else ("-" * (w - 1) + ":") for w, t in zip(widths, is_text, strict=True)]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def report(command: str, rows: Sequence[Row], notes: Sequence[str], save: bool) -> None:
    """Print the table; save: keep it as bench/results/COMMAND.md too."""
    publish(command, [render(rows), *(["\n".join(notes)] if notes else [])], save)


def publish(command: str, parts: Sequence[str], save: bool) -> None:
    """Print these paragraphs below a line about the machine and the call; save: as for `report`."""
    call = " ".join(["python -m", f"bench.{command}", *sys.argv[1:]])
    text = "\n\n".join([f"{describe()}\n`{call}`", *parts])
    print(text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{command}.md").write_text(text + "\n")
