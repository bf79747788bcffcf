"""The command `rwkv-edge`. Exit codes: 0 done, 1 a model, file or argument value is wrong, 2 usage, 130 interrupted.

A user's mistake is one sentence on stderr, never a traceback.
"""
import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rwkv_edge.cli import backends, bench, cache, chat, compare, demo, info, ingest, perplexity, quantize, run, script, warmup
from rwkv_edge.cli.printable import printable
from rwkv_edge.errors import RwkvEdgeError
from rwkv_edge.model import PromptWarning
from rwkv_edge.version import __version__

COMMANDS = (run, chat, ingest, info, backends, bench, demo, quantize, perplexity, compare, script, warmup, cache)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="rwkv-edge", description="Run RWKV language models on any machine.")
    top.add_argument("--version", action="version", version=f"rwkv-edge {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


@contextmanager
def _noted_devices() -> Iterator[None]:
    """Say which device was taken, and what is wrong with it."""
    notes, devices = Notes(), logging.getLogger("rwkv_edge.devices")
    devices.addHandler(notes)
    devices.setLevel(logging.INFO)
    try:
        yield
    finally:
        devices.removeHandler(notes)


class Notes(logging.Handler):
    """On standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        _note(record.getMessage())


def _note(message: object) -> None:
    print(f"rwkv-edge: note: {printable(message)}", file=sys.stderr)


def _show_warning(message: Warning | str, category: type[Warning], *rest: object, **named: object) -> None:
    _note(message)


def _open_missing_streams() -> None:
    """A standard stream that was closed before the start is None here, and the next file opened would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def _drop_output() -> None:
    """What is still in the buffer would raise again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); returns the exit code."""
    _open_missing_streams()
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character shows "?" instead of a traceback
            stream.reconfigure(errors="replace")
    with _noted_devices(), warnings.catch_warnings():
        warnings.simplefilter("always", PromptWarning)
        warnings.showwarning = _show_warning
        try:
            args.run(args)
        except RwkvEdgeError as error:
            print(f"rwkv-edge: {printable(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output went away, which is its right
            _drop_output()
            return 0
        except MemoryError:
            print("rwkv-edge: there is not enough memory; `rwkv-edge info MODEL` tells what each format needs", file=sys.stderr)
            return 1
        except OSError as error:
            what = "the output cannot be written" if error.filename is None else printable(error.filename)
            print(f"rwkv-edge: {what}: {str(error.strerror or error).lower()}", file=sys.stderr)
            _drop_output()
            return 1
    return 0
