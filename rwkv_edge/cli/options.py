"""Options that several commands share."""
import argparse
from dataclasses import fields

from rwkv_edge.sampling import Sampling

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
    parser.add_argument("--strategy", default="auto", help='backend and weight format: "auto", "cpu fp32", "webgpu fp16"')
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the fast cores this process may use)")


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


    parser.add_argument(
        "--logit-bias", action="append", type=_bias, metavar="ID=X", help="add X to the logit of a token; may be repeated"
    )
    parser.add_argument(
        "--ban-token", action="append", type=int, dest="banned_tokens", metavar="ID",
        help="never draw this token (0: do not end the text); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text, which is not printed; may be repeated"
    )


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=X, for example 261=-5, got {text!r}") from None


def sampling_from(args: argparse.Namespace) -> Sampling:
    """Raises InputError for a value out of range."""
    named = {field.name: getattr(args, field.name, None) for field in fields(Sampling)}
    named["logit_bias"] = dict(named["logit_bias"] or ())
    named["banned_tokens"] = named["banned_tokens"] or ()
    return Sampling(**named)
