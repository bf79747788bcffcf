"""`rwkv-edge script FILE ...`: run a script that was written for the `rwkv` package."""
import argparse
import runpy
import sys
import traceback
from pathlib import Path
from types import TracebackType

from rwkv_edge.errors import InputError, RwkvEdgeError

DESCRIPTION = """Run a Python script that says `from rwkv.model import RWKV` and `from rwkv.utils import PIPELINE`, as it is, on
this engine (rwkv_edge.compat). Neither rwkv nor torch need be installed."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("script", help="run a script written for the rwkv package", description=DESCRIPTION)
    parser.add_argument("file", help="the script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from rwkv_edge.compat import install  # loads what only this command needs

    script = Path(args.file)
    try:
        script.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise InputError(f"{script}: cannot be read: {reason}, expected a Python script") from error
    install()
    sys.argv = [args.file, *args.arguments]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(args.file, run_name="__main__")
    except (RwkvEdgeError, BrokenPipeError):
        raise
    except Exception as error:  # the script's own, not ours to put into one sentence
        traceback.print_exception(error.with_traceback(_within(error.__traceback__, args.file)))
        raise SystemExit(1) from None


def _within(trace: TracebackType | None, file: str) -> TracebackType | None:
    """What Python itself would show: from where the script begins."""
    while trace is not None and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    return trace
