"""Our canonical shapes: every vector flat, every matrix [out, in], heads [H, N]. All results are views.

Sources: the shapes in BlinkDL's RWKV-LM (model.py of RWKV-v4neo, v5 and v7) and what the rwkv pip package's model.py
does to them at load.
"""
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Hints, Tensor, Weights

# Stored as [C], [1, 1, C] or [1, C]; ours [C].
VECTOR = re.compile(
    r"(blocks\.\d+\.(ln0|ln1|ln2|att\.ln_x)|ln_out)\.(weight|bias)"
    r"|blocks\.\d+\.(att|ffn)\.(time_mix_[a-z]|time_maa_[a-z]|x_[a-z])"
    r"|blocks\.\d+\.att\.([wav]0|k_[ka])"
)
# Stored as [H], [H, 1, 1], [H, N] or [H, N, 1], and version 6's time_decay as [1, 1, C]; ours [H], [H, N] or [C].
PER_HEAD = re.compile(r"blocks\.\d+\.att\.(time_decay|time_first|time_faaaa|r_k)")
# The two halves of a low-rank map; BlinkDL stores them as [in, out].
LOW_RANK = re.compile(r"blocks\.\d+\.att\.(time_maa_w[12]|time_decay_w[12]|[wavg][12])")
FAAAA = re.compile(r"blocks\.\d+\.att\.time_faaaa")


def weights_of(raw: RawFile, tensors: Iterable[Tensor], low_rank_in_out: bool) -> Weights:
    """Weights of `tensors`, which have our names already, in our shapes.

    low_rank_in_out: low-rank matrices are stored [in, out], as BlinkDL does. Hints come from metadata["config"].
    Raises ModelFileError when two tensors have one name or a shape cannot be that of its tensor.
    """
    named: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in named:
            raise ModelFileError(f"{raw.path}: two tensors stand for {quoted(tensor.name)}")
        named[tensor.name] = _in_our_shape(raw, tensor, low_rank_in_out)
    config = raw.metadata.get("config", {})
    if "head.weight" not in named and "emb.weight" in named and config.get("tie_word_embeddings") is True:
        named["head.weight"] = named["emb.weight"].renamed("head.weight")
    return Weights(raw.path, raw.source, _with_channels(raw, named), _hints(raw, config), raw.metadata)


def _in_our_shape(raw: RawFile, tensor: Tensor, low_rank_in_out: bool) -> Tensor:
    if VECTOR.fullmatch(tensor.name):
        return tensor.reshape(tensor.size)
    if PER_HEAD.fullmatch(tensor.name):
        return tensor.reshape(*_per_head_shape(tensor.shape))
    if low_rank_in_out and LOW_RANK.fullmatch(tensor.name):
        if len(tensor.shape) < 2:
            shape = list(tensor.shape)
            raise ModelFileError(f"{raw.path}: tensor {quoted(tensor.name)} has shape {shape}, expected a matrix")
        return tensor.transpose()
    return tensor


def _per_head_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the axes of 1 after the last that counts, and without two before it; [1, N] stays: one head."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape[2:] if len(shape) == 3 and shape[:2] == (1, 1) else shape


def _with_channels(raw: RawFile, named: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """5.1 files whose bonus is `time_faaaa` [H] use it as it is, like 5.2, not exponentiated like 5.1's `time_first`.

    Seen as 5.2: one number a head, repeated over the head's channels by a view of stride 0.
    """
    for name in [n for n in named if FAAAA.fullmatch(n) and len(named[n].shape) == 1]:
        prefix = name.removesuffix("time_faaaa")
        norm, n_head = named.get(f"{prefix}ln_x.weight"), named[name].size
        if norm is None or n_head < 1 or norm.size % n_head:
            found = f"tensor {quoted(name)} has shape [{n_head}]"
            raise ModelFileError(f"{raw.path}: {found}, expected a number of heads that divides the channels")
        for per_head in (name, f"{prefix}time_decay"):
            tensor = named.get(per_head)
            if tensor is not None and tensor.shape == (n_head,):
                shape = (n_head, norm.size // n_head)
                named[per_head] = replace(tensor, shape=shape, data=np.broadcast_to(tensor.data[:, None], shape))
    return named


def _hints(raw: RawFile, config: Mapping[str, Any]) -> Hints:
    """What config.json says, but not `rescale_every`: by it transformers divides at load, files are undivided."""
    hints = Hints()
    for key in ("head_dim", "head_size"):
        size = config.get(key)
        if size is not None:
            if type(size) is not int or not 0 < size <= 1 << 16:
                raise ModelFileError(f"{raw.path}: config.json has {key} {quoted(str(size))}, expected a positive size")
            hints = replace(hints, head_size=size)
    for key in ("norm_eps", "layer_norm_epsilon"):
        eps = config.get(key)
        if eps is not None:
            if type(eps) is not float or not 0 < eps < 1:
                raise ModelFileError(f"{raw.path}: config.json has {key} {quoted(str(eps))}, expected a small number")
            hints = replace(hints, layer_norm_eps=eps)
    return hints
