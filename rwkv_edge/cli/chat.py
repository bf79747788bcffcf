"""`rwkv-edge chat MODEL`: talk with a model in the terminal, or answer piped lines."""
import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from rwkv_edge.chat import FORMATS, Chat, Reply
from rwkv_edge.chat.conversation import MAX_TOKENS
from rwkv_edge.cli.chat_commands import COMMANDS, run_command
from rwkv_edge.cli.chat_input import lines_from
from rwkv_edge.cli.options import SAMPLING_HELP, add_conversion_options, add_generation_options, add_model_options, conversion
from rwkv_edge.cli.printable import printable
from rwkv_edge.cli.tuning import add_tuning_options, lora_from, state_from
from rwkv_edge.errors import RwkvEdgeError
from rwkv_edge.model import Model
from rwkv_edge.text.sampling import Sampling

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "Talk with a model. Piped input: each line is a message, the answers go to standard output."
    parser = commands.add_parser("chat", help="talk with a model", description=about)
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    names = ", ".join((*FORMATS, "template"))
    parser.add_argument("--format", metavar="NAME", help=f"prompt format (default: the model's own): {names}")
    parser.add_argument("--think", default="off", metavar="MODE", help="think before answering: on, fast, short, medium, long")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument("--tokenizer", metavar="FILE", help="vocabulary file or 20B_tokenizer.json (default: the model's own)")
    parser.add_argument("--stats", action="store_true", help="print tokens/s to standard error after each answer")
    add_model_options(parser)
    add_conversion_options(parser)
    add_tuning_options(parser)
    add_generation_options(parser, max_tokens=MAX_TOKENS)
    parser.set_defaults(run=run, **dict.fromkeys(SAMPLING_HELP))  # what is not given is the format's


def run(args: argparse.Namespace) -> None:
    given = sampling_given(args)
    options = {"tokenizer": args.tokenizer, "threads": args.threads, **lora_from(args), **conversion(args)}
    with Model(args.model, args.strategy, **options) as model:
        chat = model.chat(
            format=args.format, think=args.think, system=args.system, state=state_from(args, model),
            max_tokens=args.max_tokens, stop=[os.fsencode(text) for text in args.stop],
        )  # fmt: skip
        if args.load is not None:
            chat.load(args.load)
        chat.sampling = replace(chat.format.sampling, **given)
        model.tokenizer  # noqa: B018  # a vocabulary that cannot be had is told now, not at the first message
        converse(chat, model, stats=args.stats)


def sampling_given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings on the command line. Raises InputError for a value out of range."""
    named: dict[str, Any] = {name: value for name in SAMPLING_HELP if (value := getattr(args, name)) is not None}
    named |= {"logit_bias": dict(args.logit_bias), "banned_tokens": args.banned_tokens}
    Sampling(**named)
    return named


def converse(chat: Chat, model: Model, *, stats: bool) -> None:
    """Messages and commands until the input ends. A mistake is one sentence, and the conversation goes on."""
    if sys.stdin.isatty():
        think = f", thinking: {chat.think}" if len(chat.format.think_modes) > 1 else ""
        keys = "/help lists commands, ctrl-C stops an answer, ctrl-D ends."
        print(f"{model.fingerprint} on {model.backend_name}, format {chat.format.name}{think}. {keys}", file=sys.stderr)
    for line in lines_from(tuple(COMMANDS)):
        try:
            reply = run_command(chat, line) if line.startswith("/") else chat.ask(line)
            if reply is not None:
                show(reply, chat, stats=stats)
        except EOFError:
            return
        except KeyboardInterrupt:  # between two steps, or a second time during one
            if not sys.stdin.isatty():
                raise
            print("\n[interrupted; the question is taken back]", file=sys.stderr)
        except RwkvEdgeError as error:
            print(f"rwkv-edge: {printable(error)}", file=sys.stderr)


def show(reply: Reply, chat: Chat, *, stats: bool) -> None:
    """Print an answer as it comes; thoughts only in a terminal, dimmed."""
    start = time.perf_counter()
    first = 0.0
    show_thoughts, thinking = sys.stdout.isatty(), False
    with stopped_by_interrupt(reply):
        for piece in reply.pieces():
            first = first or time.perf_counter()
            if piece.thinking and not show_thoughts:
                continue
            if piece.text and piece.thinking != thinking:
                thinking = piece.thinking
                print(DIM if thinking else f"{PLAIN}\n\n", end="")
            print(piece.text, end="", flush=True)
    print(PLAIN if thinking else "", flush=True)
    notes = {
        "cancelled": "stopped" if reply.written else "stopped before the first word; the question is taken back",
        "length": f"cut at {chat.max_tokens} tokens; /set max_tokens N allows more",
    }
    if note := notes.get(reply.finish_reason or ""):
        print(f"[{note}]", file=sys.stderr)
    if stats and first:
        print_speed(reply, first - start, time.perf_counter() - first)


def print_speed(reply: Reply, wait: float, writing: float) -> None:
    written = len(reply.tokens)
    speed = f", then {(written - 1) / writing:.1f} tokens/s" if written > 1 else ""
    print(f"[{reply.prompt_tokens} tokens read, first token after {wait:.2f} s{speed}, {written} written]", file=sys.stderr)


@contextmanager
def stopped_by_interrupt(reply: Reply) -> Iterator[None]:
    """Ctrl-C ends the reply, within one token. A second one, should that not come, interrupts as always."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        reply.cancel()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
