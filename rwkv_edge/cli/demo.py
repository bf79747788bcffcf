"""`rwkv-edge demo`: the bundled model continues a prompt, so that a new user sees the engine work before any download."""
import argparse
import os
import sys

from rwkv_edge.cli.options import add_generation_options, add_model_options, sampling_from
from rwkv_edge.cli.run import print_stream
from rwkv_edge.demo import MODEL_PATH, PROMPT, SAMPLING
from rwkv_edge.model import Model


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Continue a prompt with the small model that comes with this package; it was trained on Python source."
    parser = commands.add_parser("demo", help="continue a prompt with the bundled model", description=text)
    parser.add_argument("-p", "--prompt", default=PROMPT, help="text to continue (default: the start of a Python function)")
    add_model_options(parser)
    add_generation_options(parser, SAMPLING)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    sampling = sampling_from(args)
    with Model(MODEL_PATH, args.strategy, threads=args.threads) as model:
        shape = model.shape
        parameters = sum(tensor.size for tensor in model.weights.tensors.values())
        print(
            f"[RWKV-{shape.version}, {parameters / 1e6:.1f} M parameters, backend {model.backend_name}]", file=sys.stderr
        )
        print_stream(model, os.fsencode(args.prompt), args.max_tokens, sampling, args.stop, stats=True)
