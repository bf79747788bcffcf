"""`rwkv-edge cache`: the converted models that --cache keeps."""
import argparse

from rwkv_edge.convert import model_cache


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = f"List the converted models that --cache keeps (the {model_cache.KEPT} used last), or remove them."
    parser = commands.add_parser("cache", help="list or remove converted models", description=text)
    parser.add_argument("--clear", action="store_true", help="remove them")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.clear:
        model_cache.clear()
    for path in model_cache.files():
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
