"""Options that several commands share."""
import argparse
from dataclasses import fields
from typing import Any

from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.sampling import Sampling

SAMPLING_HELP = {
    "temperature": "higher is more varied; 0 always takes the likeliest token",
    "top_p": "keep the likeliest tokens that together reach this probability",
    "top_k": "keep at most this many tokens; 0 keeps all",
    "presence_penalty": "lower the logit of tokens that occurred",
    "frequency_penalty": "lower it again for each time they occurred",
    "penalty_decay": "how much of a past occurrence remains after each token",
    "seed": "same seed, same text",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", default="auto", help='backend and weight format: "auto", "cpu q4", "webgpu fp16"')
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the fast cores this process may use)")


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", action="store_true", help="keep what the strategy converts (see rwkv-edge cache)")


def conversion(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `Model`: --cache, and a bar while weights are converted."""
    bar = ProgressBar("MB", 1e6)

    def progress(done: int, total: int) -> None:
        bar(done, total)
        if done == total:
            bar.end()

    return {"cache": args.cache, "progress": progress}


def add_generation_options(parser: argparse.ArgumentParser, defaults: Sampling | None = None) -> None:
    defaults = defaults or Sampling()
    parser.add_argument("-n", "--max-tokens", type=int, default=256, metavar="N", help="stop after N tokens (default 256)")
    for name, text in SAMPLING_HELP.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if name in ("top_k", "seed") else float,
            default=default,
            metavar="X",
            help=text if default is None else f"{text} (default {default})",
        )


def sampling_from(args: argparse.Namespace) -> Sampling:
    """Raises InputError for a value out of range."""
    return Sampling(**{field.name: getattr(args, field.name) for field in fields(Sampling) if hasattr(args, field.name)})
