"""`rwkv-edge warmup [MODEL]`: compile now what a first run would stop for."""
import argparse
import logging
import sys
import time

from rwkv_edge import registry
from rwkv_edge.backend import CompilesAhead
from rwkv_edge.cli.options import add_model_options
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model

TEXT = """Compile now, for this machine, what the first run would compile: what MODEL needs, or without MODEL what any model
could need (twenty seconds on a laptop, minutes on a small board). Later runs start in a fraction of a second."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("warmup", help="compile ahead for this machine", description=TEXT)
    parser.add_argument("model", nargs="?", help="a model file or directory (default: everything)")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.model is None and (args.threads is not None or args.strategy is not None):
        raise InputError("--strategy and --threads belong to a model: give its file, too")
    start, lines = time.perf_counter(), Lines()
    log = logging.getLogger("rwkv_edge.kernels")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    if args.model is not None:
        Model(args.model, args.strategy, threads=args.threads).close()
    else:
        for name in registry.installed():
            if registry.availability(name).available and isinstance(backend := registry.load(name), CompilesAhead):
                backend.warm_up()
    print(f"{lines.count or 'nothing'} compiled, {time.perf_counter() - start:.1f} s")


class Lines(logging.Handler):
    """Progress on standard error."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        print(record.getMessage(), file=sys.stderr, flush=True)
