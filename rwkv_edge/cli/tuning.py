"""Options for what fine-tuning left in files of its own: a LoRA, a state to start from."""
import argparse
from typing import TypedDict

from rwkv_edge.model import Model
from rwkv_edge.state import State


class LoraArguments(TypedDict):
    """Of `Model`."""

    lora: str | None
    lora_alpha: float | None
    lora_init: str | None


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", metavar="FILE", help="start from a saved state, or a tuned initial state (.pth)")
    parser.add_argument("--lora", metavar="FILE", help="merge a LoRA of RWKV-PEFT (.pth) into the model")
    parser.add_argument("--lora-alpha", type=float, metavar="A", help="its alpha, which is not in the file")
    parser.add_argument("--lora-init", metavar="FILE", help="of a PiSSA: its init_pissa.pth")


def lora_from(args: argparse.Namespace) -> LoraArguments:
    return {"lora": args.lora, "lora_alpha": args.lora_alpha, "lora_init": args.lora_init}


def state_from(args: argparse.Namespace, model: Model) -> State | None:
    """Raises StateError for a file without a state of this model."""
    return model.load_state(args.state) if args.state is not None else None
