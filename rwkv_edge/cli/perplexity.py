"""`rwkv-edge perplexity MODEL --text FILE`: how well a model predicts a text."""
import argparse
import json

from rwkv_edge.cli.options import add_conversion_options, add_model_options, conversion
from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.cli.text import add_text_options, tokens_of
from rwkv_edge.evaluation.quality import Perplexity, perplexity
from rwkv_edge.model import Model

DESCRIPTION = "Measure how well a model predicts a text: bits per byte and per token, each token predicted from all before."


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("perplexity", help="measure how well a model predicts a text", description=DESCRIPTION)
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    add_text_options(parser)
    add_model_options(parser)
    add_conversion_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    bar = ProgressBar("tokens")
    with Model(args.model, args.strategy, tokenizer=args.tokenizer, threads=args.threads, **conversion(args)) as model:
        try:
            score = perplexity(model, tokens_of(args, model), bar)
        finally:
            bar.end()
    print(json.dumps(figures(score)) if args.json else line(score))


def figures(score: Perplexity) -> dict[str, float]:
    return {
        "tokens": score.tokens,
        "bytes": score.bytes,
        "bits_per_byte": score.bits_per_byte,
        "bits_per_token": score.bits_per_token,
        "perplexity": score.perplexity,
    }


def line(score: Perplexity) -> str:
    per_token = f"{score.bits_per_token:.4f} bits per token, perplexity {score.perplexity:.4f}"
    return f"{score.bits_per_byte:.4f} bits per byte, {per_token} ({score.tokens} tokens, {score.bytes} bytes)"
