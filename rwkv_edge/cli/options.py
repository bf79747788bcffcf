"""Options that several commands share."""
import argparse
from dataclasses import fields
from typing import Any

from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.text.sampling import Sampling

SAMPLING_HELP = {
    "temperature": "higher is more varied; 0 always takes the likeliest token",
    "top_p": "keep the likeliest tokens that together reach this probability",
    "top_k": "keep at most this many tokens; 0 keeps all",
    "presence_penalty": "lower the logit of tokens that occurred",
    "frequency_penalty": "lower it again for each time they occurred",
    "penalty_decay": "how much of a past occurrence remains after each token",
    "min_p": "drop tokens less likely than this share of the likeliest one",
    "typical_p": "keep the tokens of the most expected surprise that together reach this probability; 1 keeps all",
    "repetition_penalty": "divide the logit of tokens that occurred by this; 1 leaves it",
    "seed": "same seed, same text",
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", help='backend and weight format: "auto" (the default), "cpu q4", "webgpu fp16"')
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


def add_generation_options(
    parser: argparse.ArgumentParser, defaults: Sampling | None = None, max_tokens: int = 256
) -> None:
    defaults = defaults or Sampling()
    stop = f"stop after N tokens (default {max_tokens})"
    parser.add_argument("-n", "--max-tokens", type=int, default=max_tokens, metavar="N", help=stop)
    for name, text in SAMPLING_HELP.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if name in ("top_k", "seed") else float,
            default=default,
            metavar="X",
            help=text if default is None else f"{text} (default {default})",
        )
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--logit-bias", **several, type=_bias, metavar="ID=X", help="add X to a token's logit; repeatable")
    ban = "never draw this token (0: never end the text); repeatable"
    parser.add_argument("--ban-token", **several, type=int, dest="banned_tokens", metavar="ID", help=ban)
    parser.add_argument("--stop", **several, metavar="TEXT", help="end before this text, which is not printed; repeatable")


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=X, for example 261=-5, got {text!r}") from None


def sampling_from(args: argparse.Namespace) -> Sampling:
    """Raises InputError for a value out of range."""
    named: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(Sampling)}
    return Sampling(**named | {"logit_bias": dict(args.logit_bias), "banned_tokens": args.banned_tokens})
