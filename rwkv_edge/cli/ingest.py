"""`rwkv-edge ingest MODEL TEXT -o STATE`: read a long text once, to ask about it later."""
import argparse
import sys
import time
from pathlib import Path

from rwkv_edge.cli.options import add_model_options
from rwkv_edge.cli.progress import ProgressBar
from rwkv_edge.cli.tuning import add_tuning_options, lora_from, state_from
from rwkv_edge.model import Model

DESCRIPTION = """\
Feed a text of any length to a model and write the state that it leaves: a few MB, whatever the text's length.
`rwkv-edge run MODEL --state STATE -p QUESTION` then answers without reading the text again.

A checkpoint is kept in STATE.part. After an interrupt or a crash the same command goes on from there.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "ingest",
        help="read a long text once, into a state",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help=".pth, .safetensors, .gguf, rwkv.cpp .bin, or a model directory")
    parser.add_argument("document", metavar="TEXT", help="file to read")
    parser.add_argument("-o", "--output", required=True, metavar="STATE", help="file to write")
    parser.add_argument("--tokenizer", metavar="FILE", help="vocabulary file or 20B_tokenizer.json (default: the model's own)")
    add_model_options(parser)
    add_tuning_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    bar = ProgressBar("kB", 1e3)
    start = time.perf_counter()
    with Model(args.model, args.strategy, tokenizer=args.tokenizer, threads=args.threads, **lora_from(args)) as model:
        before = state_from(args, model)
        try:
            state = model.ingest(args.document, args.output, state=before, progress=bar)
        except KeyboardInterrupt:
            bar.end()
            if Path(f"{args.output}.part").exists():
                print("rwkv-edge: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            raise
        finally:
            bar.end()
    tokens = state.tokens_seen - (before.tokens_seen if before else 0)
    print(f"{args.output}: {tokens} tokens, {state.nbytes / 1e6:.1f} MB, in {time.perf_counter() - start:.1f} s")
