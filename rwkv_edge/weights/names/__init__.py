"""Whose names a file uses, and from those to ours (BlinkDL's names, matrices as [out, in], vectors flat)."""
from importlib import import_module

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Weights

# Modules with `recognise(raw)` and `to_ours(raw)`. Some formats imply their names; for the others the modules are asked
# in this order, `original` last: web-rwkv's names include its names.
BY_SOURCE = {"gguf": "gguf", "rwkv.cpp": "rwkvcpp"}
BY_NAMES = ("hf", "fla", "web_rwkv", "original")


def to_ours(raw: RawFile) -> Weights:
    """The model in `raw` under our names; raises ModelFileError when its tensors are named like no RWKV we know."""
    candidates = (BY_SOURCE[raw.source],) if raw.source in BY_SOURCE else BY_NAMES
    for name in candidates:
        module = import_module(f"{__name__}.{name}")
        if module.recognise(raw):
            weights: Weights = module.to_ours(raw)
            return weights
    example = next(iter(raw.tensors), None)
    found = f"its first tensor is {quoted(example)}" if example is not None else "it has no tensors"
    raise ModelFileError(f"{raw.path}: is no RWKV model as far as its tensor names tell: {found}")
