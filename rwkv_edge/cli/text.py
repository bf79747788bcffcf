"""The text that a quality command measures with."""
import argparse
from pathlib import Path

from rwkv_edge.errors import InputError
from rwkv_edge.model import Model

LONGEST_TOKEN = 128  # bytes, in the World vocabulary


def add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, metavar="FILE", help="text to predict, from the start of a document")
    parser.add_argument("--tokens", type=int, metavar="N", help="only the first N tokens of it")
    parser.add_argument("--tokenizer", metavar="FILE", help="vocabulary file or 20B_tokenizer.json (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def tokens_of(args: argparse.Namespace, model: Model) -> list[int]:
    """The tokens that --text and --tokens ask for. Raises InputError for a file that cannot be read or is empty."""
    if args.tokens is not None and args.tokens < 1:
        raise InputError(f"--tokens must be at least 1, got {args.tokens}")
    try:
        with Path(args.text).open("rb") as file:
            text = file.read(-1 if args.tokens is None else (args.tokens + 1) * LONGEST_TOKEN)
    except OSError as error:
        raise InputError(f"{args.text}: cannot be read: {str(error.strerror).lower()}") from error
    tokens = model.tokenizer.encode(text)[: args.tokens]
    if not tokens:
        raise InputError(f"{args.text}: is empty, expected a text")
    return tokens
