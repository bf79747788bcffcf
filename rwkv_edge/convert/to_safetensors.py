"""A model as the entries and the header of a safetensors file, under BlinkDL's names or web-rwkv's."""
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from rwkv_edge.arch import ModelShape
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.mix import Mix
from rwkv_edge.errors import InputError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.names.shapes import LOW_RANK
from rwkv_edge.weights.tensor import Tensor, Weights

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
ALIGNMENT = 64  # of the first byte of data
# [1, 1, C] in BlinkDL's files, flat in ours; in version 4 and 5 the decay is not among them.
WITH_LEADING_AXES = re.compile(
    r"blocks\.\d+\.(att|ffn)\.(time_mix_[a-z]|time_maa_[a-z]|x_[a-z])|blocks\.\d+\.att\.([wav]0|k_[ka])"
)
DECAY_6 = re.compile(r"blocks\.\d+\.att\.time_decay")
WEB_RWKV_VERSIONS = ("4", "5.2", "6", "7")


def original_entries(weights: Weights, shape: ModelShape, mix: Mix) -> list[Entry]:
    """As BlinkDL's .pth has them: names, shapes and orientation; every tensor in the float format of `mix`."""
    return [
        Entry(tensor.name, tensor.shape, mix.matrices, (tensor,), weights.hints.divisor(tensor.name))
        for tensor in _in_original_shape(weights, shape)
    ]


def web_rwkv_entries(weights: Weights, shape: ModelShape, mix: Mix) -> list[Entry]:
    """As web-rwkv's converter makes them: `original_entries` in lower case, time_faaaa and time_maa called time_first
    and time_mix, low-rank maps and a tuned state transposed.

    Raises InputError for versions that web-rwkv does not run.
    """
    if shape.version not in WEB_RWKV_VERSIONS:
        raise InputError(f"web-rwkv's .st files do not hold RWKV-{shape.version}: write .safetensors or .gguf instead")
    return [_for_web_rwkv(entry) for entry in original_entries(weights, shape, mix)]


def _for_web_rwkv(entry: Entry) -> Entry:
    part, shape = entry.parts[0], entry.shape
    if LOW_RANK.fullmatch(entry.name) or entry.name.endswith(".time_state"):
        part = part.transpose()
        shape = part.shape
    name = entry.name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
    return replace(entry, name=name, shape=shape, parts=(part,))


def _in_original_shape(weights: Weights, shape: ModelShape) -> Iterator[Tensor]:
    for tensor in weights.tensors.values():
        if LOW_RANK.fullmatch(tensor.name):
            yield _transposable(tensor).transpose()
        elif WITH_LEADING_AXES.fullmatch(tensor.name) or (shape.version == "6" and DECAY_6.fullmatch(tensor.name)):
            yield tensor.reshape(1, 1, tensor.size)
        else:
            yield tensor


def _transposable(tensor: Tensor) -> Tensor:
    """A small matrix as floats, where it is stored in blocks."""
    if FORMATS[tensor.format].is_float:
        return tensor
    return replace(tensor, format="f32", data=tensor.decode())


def header(entries: Sequence[Entry]) -> bytes:
    """Everything before the data; the data follows in the order of `entries`, without gaps."""
    ends = list(accumulate(entry.nbytes for entry in entries))
    text = json.dumps(
        {"__metadata__": {"format": "pt"}}
        | {
            entry.name: {"dtype": DTYPES[entry.format], "shape": list(entry.shape), "data_offsets": [end - entry.nbytes, end]}
            for entry, end in zip(entries, ends, strict=True)
        },
        separators=(",", ":"),
    ).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
