"""`rwkv-edge info MODEL`: what a model file holds and how much memory it takes, without loading it."""
import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

from rwkv_edge.arch import ModelShape, build_plan, read_shape
from rwkv_edge.strategy.memory import Need, Sizes, readable
from rwkv_edge.strategy.words import WEIGHT_FORMATS
from rwkv_edge.weights import Weights, open_weights


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Show what a model file holds, and the file size and memory that it takes in each weight format."
    parser = commands.add_parser("info", help="show what a model file holds", description=text)
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Row:
    """A weight format. words: a strategy's for it; none: as stored.  file: bytes."""

    words: tuple[str, ...]
    file: int
    need: Need


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """stored: bytes in each format of the file.  rows: what could be made of it, after what is there.  state: bytes."""

    weights: Weights
    shape: ModelShape
    stored: dict[str, int]
    rows: list[Row]

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.weights.tensors.values())

    @property
    def state(self) -> int:
        return self.rows[0].need.state


def run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    weights = open_weights(args.model)
    opened = time.perf_counter() - start
    found = facts(weights)
    if args.json:
        print(json.dumps(as_json(found), indent=2))
        return
    for label, value in [*labelled(found), ("opened in", f"{opened * 1e3:.0f} ms")]:
        print(f"{label:12} {value}")
    print()
    print("\n".join(table(found)))


def facts(weights: Weights) -> Facts:
    """Raises ModelFileError for a model that could not run."""
    shape = read_shape(weights)
    sizes = Sizes(build_plan(weights))
    stored: dict[str, int] = {}
    for tensor in weights.tensors.values():
        stored[tensor.format] = stored.get(tensor.format, 0) + tensor.nbytes
    rows = [Row((), weights.nbytes, sizes.of_format(None))]
    rows += [Row(words, sizes.file(format), sizes.of_format(format)) for format, words in words_of_formats().items()]
    return Facts(weights, shape, stored, [rows[0], *sorted(rows[1:], key=lambda row: -row.need.total)])


def words_of_formats() -> dict[str, tuple[str, ...]]:
    """Weight format -> the words for it."""
    formats = dict.fromkeys(format for format, _ in WEIGHT_FORMATS.values() if format is not None)
    return {f: tuple(word for word, (format, _) in WEIGHT_FORMATS.items() if format == f) for f in formats}


def labelled(found: Facts) -> list[tuple[str, str]]:
    """(label, value) lines."""
    weights, shape = found.weights, found.shape
    stored = sorted(found.stored.items(), key=lambda item: -item[1])
    heads = "" if shape.version == "4" else f", {shape.n_head} heads of {shape.head_size}"
    return [
        ("file", f"{weights.path} ({weights.source})"),
        ("version", f"RWKV-{shape.version}"),
        ("shape", f"{shape.n_layer} layers, {shape.n_embd} channels{heads}, feed-forward {shape.n_ffn}"),
        ("vocabulary", f"{shape.n_vocab} tokens"),
        ("parameters", f"{found.parameters / 1e6:.2f} M"),
        ("weights", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in stored)),
        ("state", f"{found.state / 1e6:.2f} MB a sequence"),
    ]


def table(found: Facts) -> list[str]:
    """Memory: of weights, one state, and the activations of a long prompt."""
    lines = [("format", "file", "memory")]
    lines += [(", ".join(row.words) or "as stored", readable(row.file), readable(row.need.total)) for row in found.rows]
    width = max(len(line[0]) for line in lines)
    return [f"{format:{width}}  {file:>8}  {memory:>8}" for format, file, memory in lines]


def as_json(found: Facts) -> dict[str, Any]:
    """Sizes in bytes."""
    shape = found.shape
    return {
        "file": str(found.weights.path),
        "source": found.weights.source,
        "version": shape.version,
        "n_layer": shape.n_layer,
        "n_embd": shape.n_embd,
        "n_ffn": shape.n_ffn,
        "n_vocab": shape.n_vocab,
        "n_head": shape.n_head,
        "parameters": found.parameters,
        "stored": found.stored,
        "state": found.state,
        "formats": [
            {
                "words": list(row.words),
                "file": row.file,
                "weights": row.need.weights,
                "activations": row.need.activations,
                "memory": row.need.total,
            }
            for row in found.rows
        ],
    }
