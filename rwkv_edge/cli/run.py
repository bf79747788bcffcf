"""`rwkv-edge run MODEL -p PROMPT`: continue a prompt."""
import argparse
import os
import sys
import time

from rwkv_edge.cli.options import add_conversion_options, add_generation_options, add_model_options, conversion, sampling_from
from rwkv_edge.cli.tuning import add_tuning_options, lora_from, state_from
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model
from rwkv_edge.state import State
from rwkv_edge.text.sampling import Sampling


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("run", help="continue a prompt", description="Continue a prompt with a model file.")
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.add_argument("-p", "--prompt", help='text to continue; "-" or none with piped input: read it from standard input')
    parser.add_argument("--tokenizer", metavar="FILE", help="vocabulary file or 20B_tokenizer.json (default: the model's own)")
    parser.add_argument("--stats", action="store_true", help="print tokens/s to standard error at the end")
    add_model_options(parser)
    add_conversion_options(parser)
    add_tuning_options(parser)
    add_generation_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    sampling = sampling_from(args)
    prompt = read_prompt(args.prompt)
    options = {"tokenizer": args.tokenizer, "threads": args.threads, **lora_from(args), **conversion(args)}
    with Model(args.model, args.strategy, **options) as model:
        state = state_from(args, model)
        print_stream(model, prompt, args.max_tokens, sampling, args.stop, stats=args.stats, state=state)


def read_prompt(prompt: str | None) -> bytes:
    """The bytes the user gave, whatever their encoding."""
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        return sys.stdin.buffer.read()
    if prompt is None:
        raise InputError("no prompt: give one with -p, or pipe text in")
    return os.fsencode(prompt)


def print_stream(
    model: Model,
    prompt: bytes,
    max_tokens: int,
    sampling: Sampling,
    stop: list[str],
    *,
    stats: bool,
    state: State | None = None,
) -> None:
    """Print the prompt and its continuation as it comes; then, with `stats`, the speed."""
    stops = [os.fsencode(text) for text in stop]
    # Refuses at once what it cannot do.
    continuation = model.stream(prompt, state, max_tokens=max_tokens, sampling=sampling, stop=stops)
    print(prompt.decode("utf-8", errors="replace"), end="", flush=True)
    start = first = time.perf_counter()
    pieces = 0
    for piece in continuation:
        if not pieces:
            first = time.perf_counter()
        pieces += 1
        print(piece, end="", flush=True)
    print(flush=True)
    if stats:
        decode = time.perf_counter() - first
        speed = f", then {(pieces - 1) / decode:.1f} tokens/s" if pieces > 1 else ""
        print(f"[{model.backend_name}: first token after {first - start:.2f} s{speed}]", file=sys.stderr)
