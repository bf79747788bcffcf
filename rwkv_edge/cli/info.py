"""`rwkv-edge info MODEL`: what a model file holds, without loading it."""
import argparse
import time

from rwkv_edge.arch import build_plan, read_shape
from rwkv_edge.weights import Weights, open_weights


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("info", help="show what a model file holds", description="Show what a model file holds.")
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    weights = open_weights(args.model)
    opened = time.perf_counter() - start
    for label, value in [*facts(weights), ("opened in", f"{opened * 1e3:.0f} ms")]:
        print(f"{label:12} {value}")


def facts(weights: Weights) -> list[tuple[str, str]]:
    """(label, value) lines. Raises ModelFileError for a model that could not run."""
    shape = read_shape(weights)
    plan = build_plan(weights)
    sizes: dict[str, int] = {}
    for tensor in weights.tensors.values():
        sizes[tensor.format] = sizes.get(tensor.format, 0) + tensor.nbytes
    formats = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))
    heads = "" if shape.version == "4" else f", {shape.n_head} heads of {shape.head_size}"
    return [
        ("file", f"{weights.path} ({weights.source})"),
        ("version", f"RWKV-{shape.version}"),
        ("shape", f"{shape.n_layer} layers, {shape.n_embd} channels{heads}, feed-forward {shape.n_ffn}"),
        ("vocabulary", f"{shape.n_vocab} tokens"),
        ("parameters", f"{sum(t.size for t in weights.tensors.values()) / 1e6:.2f} M"),
        ("weights", formats),
        ("state", f"{plan.state_size * 4 / 1e6:.2f} MB a sequence"),
    ]
