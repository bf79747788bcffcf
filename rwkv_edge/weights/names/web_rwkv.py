"""Names of web-rwkv's .st files: BlinkDL's in lower case with time_faaaa -> time_first and time_maa -> time_mix.

Low-rank matrices and time_state are transposed, and all is usually float16. A version 5.1 that has `time_faaaa` gets it
and its time_decay repeated to [H, N], so it reads as 5.2.

Version 4 files are the same as BlinkDL's. Source: convert_safetensors.py and src/runtime/loader.rs of web-rwkv.
"""
import re

from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Tensor, Weights


def recognise(raw: RawFile) -> bool:
    """Version 6 by its names, 5 by time_first, which is [H, N] only here, and 7 by the orientation of its matrices."""
    tensors = raw.tensors
    if "emb.weight" not in tensors:
        return False
    first, w1, embedding = (tensors.get(name) for name in ("blocks.0.att.time_first", "blocks.0.att.w1", "emb.weight"))
    if "blocks.0.att.time_mix_x" in tensors:
        return True
    if "blocks.0.att.ln_x.weight" in tensors and first is not None:
        return len(first.shape) == 2 and first.shape[1] > 1
    if w1 is None or embedding is None or len(w1.shape) != 2:
        return False
    return w1.shape[1] == embedding.shape[-1] != w1.shape[0]


def to_ours(raw: RawFile) -> Weights:
    """Renamed; time_state transposed back, vectors flattened (views)."""
    version_6 = "blocks.0.att.time_mix_x" in raw.tensors
    tensors = (_renamed(name, tensor, version_6) for name, tensor in raw.tensors.items())
    return weights_of(raw, tensors, low_rank_in_out=False)


def _renamed(name: str, tensor: Tensor, version_6: bool) -> Tensor:
    if name.endswith(".time_state") and len(tensor.shape) == 3:
        tensor = tensor.transpose()
    if version_6:
        name = name.replace(".time_mix_", ".time_maa_")
    return tensor.renamed(re.sub(r"\.att\.time_first$", ".att.time_faaaa", name))
