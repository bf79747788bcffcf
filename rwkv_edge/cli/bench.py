"""`rwkv-edge bench MODEL`: how fast a model runs here."""
import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from rwkv_edge.cli.options import add_conversion_options, add_model_options, conversion
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model
from rwkv_edge.plan import MatMul

DESCRIPTION = """Measure how fast a model runs on this machine: a prompt, tokens one at a time, several sequences together. Each
figure is the median of some rounds; what else runs takes its share."""


@dataclass(frozen=True, slots=True)
class Speed:
    """decode_gb_per_s: weights that a token multiplies with, in the formats of the strategy, times its rate; without the copies
    and the weights that zeros skip. prefill_gmac_per_s: products of a prompt's token, times its rate. peak_mb: None where
    unknown."""

    backend: str
    open_s: float
    first_token_s: float
    prefill_tokens_per_s: float
    prefill_gmac_per_s: float
    decode_tokens_per_s: float
    decode_gb_per_s: float
    together_tokens_per_s: float
    peak_mb: float | None


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("bench", help="measure how fast a model runs here", description=DESCRIPTION)
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of the prompt (default 512)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens of a decoding round (default 64)")
    parser.add_argument("--sequences", type=int, default=8, metavar="N", help="that are decoded together (default 8)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the median counts (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_options(parser)
    add_conversion_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    for name in ("prompt", "tokens", "sequences", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(args, name)}")
    start = time.perf_counter()
    with Model(args.model, args.strategy, threads=args.threads, **conversion(args)) as model:
        speed = measured(model, args, time.perf_counter() - start)
    print(json.dumps(asdict(speed)) if args.json else text(speed, args))


def measured(model: Model, args: argparse.Namespace, open_s: float) -> Speed:
    tokens = np.random.default_rng(0).integers(1, model.shape.n_vocab, args.prompt + args.tokens)
    prompt, following = tokens[: args.prompt], [[int(token)] for token in tokens[args.prompt :]]
    matrices = [op.weight for op in model.plan.ops if isinstance(op, MatMul)]
    first_token_s = seconds(lambda: model.forward(prompt[:1]))
    _, state = model.forward(prompt[: min(16, args.prompt)])
    for token in following:  # weights are copied and pages read while the first tokens are computed
        model.forward(token, state)
    states = [state.copy() for _ in range(args.sequences)]

    def decode() -> None:
        for token in following:
            model.forward(token, state)

    def together() -> None:
        for token in following:
            model.forward_batch([token] * args.sequences, states)

    prefill, one, several = (
        median(seconds(part) for _ in range(args.rounds)) for part in (lambda: model.forward(prompt), decode, together)
    )
    rate = args.tokens / one
    return Speed(
        model.backend_name,
        open_s,
        first_token_s,
        args.prompt / prefill,
        args.prompt / prefill * sum(weight.size for weight in matrices) / 1e9,
        rate,
        rate * model.matrix_bytes / 1e9,
        args.sequences * args.tokens / several,
        peak_mb(),
    )


def seconds(part: Callable[[], object]) -> float:
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


def peak_mb() -> float | None:
    """Resident memory of this process at most, the mapped file's pages included."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


def text(speed: Speed, args: argparse.Namespace) -> str:
    lines = [
        f"{speed.backend}: opened in {speed.open_s:.2f} s, the first token took {speed.first_token_s:.2f} s",
        f"prompt of {args.prompt}: {speed.prefill_tokens_per_s:.1f} tokens/s ({speed.prefill_gmac_per_s:.0f} GMAC/s)",
        f"one at a time: {speed.decode_tokens_per_s:.1f} tokens/s ({speed.decode_gb_per_s:.1f} GB/s of weights)",
        f"{args.sequences} sequences together: {speed.together_tokens_per_s:.1f} tokens/s",
    ]
    if speed.peak_mb is not None:
        lines.append(f"memory at most {speed.peak_mb:.0f} MB, the file's pages included")
    return "\n".join(lines)
