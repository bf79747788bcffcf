"""`rwkv-edge compare A B --text FILE`: how far the predictions of B, say a quantized copy, are from those of A."""
import argparse
import json

from rwkv_edge.cli.options import add_model_options
from rwkv_edge.cli.perplexity import figures, line
from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.cli.text import add_text_options, tokens_of
from rwkv_edge.evaluation.quality import Comparison, compare, tensor_errors
from rwkv_edge.model import Model

WORST = 10  # tensors that are listed; all of them with --json


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Compare a model's predictions on a text with those of a reference, such as the file it was quantized from."
    parser = commands.add_parser("compare", help="compare two models' predictions on a text", description=text)
    parser.add_argument("a", metavar="A", help="the reference: any model file or directory")
    parser.add_argument("b", metavar="B", help="the model to compare with it")
    add_text_options(parser)
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    bar = ProgressBar("tokens")
    options = {"tokenizer": args.tokenizer, "threads": args.threads}
    with Model(args.a, args.strategy, **options) as a, Model(args.b, args.strategy, **options) as b:
        try:
            comparison = compare(a, b, tokens_of(args, a), bar)
        finally:
            bar.end()
        errors = tensor_errors(a.weights, b.weights)
    print(_as_json(comparison, errors) if args.json else _as_text(comparison, errors))


def _as_json(comparison: Comparison, errors: dict[str, float]) -> str:
    found = {"a": figures(comparison.a), "b": figures(comparison.b)}
    kl = {"kl_mean": comparison.kl_mean, "kl_p99": comparison.kl_p99, "kl_max": comparison.kl_max}
    return json.dumps(found | kl | {"top1_agreement": comparison.top1_agreement, "tensor_errors": errors})


def _as_text(comparison: Comparison, errors: dict[str, float]) -> str:
    worst = sorted((item for item in errors.items() if item[1]), key=lambda item: -item[1])[:WORST]
    kl = f"mean {comparison.kl_mean:.6f}, 99th percentile {comparison.kl_p99:.6f}, largest {comparison.kl_max:.6f}"
    lines = [
        f"A: {line(comparison.a)}",
        f"B: {line(comparison.b)}",
        f"KL divergence: {kl}",
        f"same likeliest token: {100 * comparison.top1_agreement:.2f} %",
        f"relative error of tensors: {len(errors)} compared" + (", the largest:" if worst else ", all equal"),
        *(f"  {error:.5f}  {name}" for name, error in worst),
    ]
    return "\n".join(lines)
