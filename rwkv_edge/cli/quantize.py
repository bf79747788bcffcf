"""`rwkv-edge quantize IN OUT`: a smaller or differently packed copy of a model file."""
import argparse
import signal
import sys
from types import FrameType

from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.convert.calibrate import FEWEST_TOKENS, MOST_TOKENS
from rwkv_edge.convert.files import quantize
from rwkv_edge.convert.mix import DEFAULT, MIXES

DESCRIPTION = """\
Write a model to another file: quantized, or converted. Tensor by tensor: a 3 GB model needs no 3 GB of memory.

OUT decides by its ending: .gguf (for llama.cpp too, RWKV-6 and 7), .safetensors (floats, BlinkDL's names), .st (floats,
web-rwkv's names, as RWKV Runner uses for WebGPU). OUT appears when it is complete, and replaces what was there only then.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quantize",
        help="make a smaller or differently packed copy of a model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.add_argument("target", metavar="OUT", help="a name that ends in .gguf, .safetensors or .st")
    types = " ".join(MIXES)
    default = f"default: {DEFAULT} for .gguf, else the floats the model has, f16 for .st"
    parser.add_argument("--type", metavar="TYPE", help=f"{types} ({default})")
    calibrate = f"more exact where the model works hardest on a text like yours ({FEWEST_TOKENS} to {MOST_TOKENS} tokens of it)"
    parser.add_argument("--calibrate", metavar="FILE", help=calibrate)
    parser.add_argument("--tokenizer", metavar="FILE", help="vocabulary for --calibrate (default: the model's own)")
    parser.add_argument("--threads", type=int, metavar="N", help="that encode (default: all cores this process may use)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    reading, writing = ProgressBar("tokens"), ProgressBar("MB", 1e6)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        report = quantize(
            args.source,
            args.target,
            args.type,
            threads=args.threads,
            calibrate=args.calibrate,
            tokenizer=args.tokenizer,
            progress=writing,
            calibration_progress=reading,
        )
    finally:
        reading.end()
        writing.end()
        signal.signal(signal.SIGTERM, before)
    for note in report.notes:
        print(f"rwkv-edge: note: {note}", file=sys.stderr)
    sizes = f"{report.source_bytes / 1e6:.1f} MB -> {report.bytes / 1e6:.1f} MB"
    print(f"{report.path}: {report.type}, {sizes} in {report.seconds:.1f} s")


def _leave(number: int, frame: FrameType | None) -> None:
    """A kill ends the command as an interrupt does, so that the half-written file goes."""
    sys.exit(128 + number)
