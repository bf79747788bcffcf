"""`rwkv-edge script FILE ...`: run a script that was written for the `rwkv` package."""
import argparse
import runpy
import sys
import traceback
from pathlib import Path

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
    if not script.is_file():
        raise InputError(f"{script}: no such script")
    install()
    sys.argv = [args.file, *args.arguments]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(args.file, run_name="__main__")
    except (RwkvEdgeError, BrokenPipeError):
        raise
    except Exception:  # the script's own, not ours to put into one sentence
        traceback.print_exc()
        raise SystemExit(1) from None
