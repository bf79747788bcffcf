"""What a model is, read from its tensors: version, widths, heads."""
import re
from dataclasses import dataclass

from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights.tensor import Weights

# Tensors that only research variants have, and what these are.
VARIANTS: tuple[tuple[str, str], ...] = (
    (r"blocks\.\d+\.ffn\.(s_emb|s_emb_x|s[012])\b", "an RWKV-7 with DeepEmbed (7a/7b)"),
    (r"blocks\.\d+\.(qkv|rosa)|.*rosa", "an RWKV-8 with ROSA"),
    (r"blocks\.\d+\.att\.[qk]_norm|.*\.self_attn\.", "a hybrid with transformer attention"),
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """version: "4", "5.0", "5.1", "5.2", "6" or "7". head_size is n_embd // n_head (version 4 has one head of all channels)."""

    version: str
    n_layer: int
    n_embd: int
    n_ffn: int
    n_vocab: int
    n_head: int

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head


def detect_version(weights: Weights) -> str:
    """The RWKV version by its telltale tensors."""
    names = weights.tensors
    if "blocks.0.att.r_k" in names:
        return "7"
    if "blocks.0.att.time_maa_x" in names:
        return "6"
    if "blocks.0.att.ln_x.weight" in names:
        decay = names.get("blocks.0.att.time_decay")
        if "blocks.0.att.gate.weight" not in names:
            return "5.0"
        return "5.2" if decay is not None and len(decay.shape) == 2 else "5.1"
    if "blocks.0.att.time_first" in names:
        return "4"
    raise ModelFileError(f"{weights.path}: no RWKV model: none of the tensors that tell versions 4, 5, 6 and 7 apart is there")


def read_shape(weights: Weights) -> ModelShape:
    """Version and widths; refuses variants this engine does not run, naming them."""
    for name in weights.tensors:
        for pattern, what in VARIANTS:
            if re.match(pattern, name):
                raise ModelFileError(f"{weights.path}: {what} (it has {name}); this engine runs RWKV-4, 5, 6 and 7")
    version = detect_version(weights)
    layers = {int(m[1]) for name in weights.tensors if (m := re.match(r"blocks\.(\d+)\.", name))}
    n_layer = len(layers)
    if layers != set(range(n_layer)):
        missing = min(set(range(max(layers) + 1)) - layers)
        raise ModelFileError(f"{weights.path}: layer {missing} is missing (the file has layers up to {max(layers)})")
    n_vocab, n_embd = _matrix(weights, "emb.weight")
    n_ffn, _ = _matrix(weights, "blocks.0.ffn.key.weight")
    return ModelShape(version, n_layer, n_embd, n_ffn, n_vocab, _n_head(weights, version, n_embd))


def _matrix(weights: Weights, name: str) -> tuple[int, int]:
    tensor = weights.tensors.get(name)
    if tensor is None:
        raise ModelFileError(f"{weights.path}: tensor {name} is missing")
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise ModelFileError(f"{weights.path}: tensor {name} has shape {list(tensor.shape)}, expected a matrix")
    return tensor.shape[0], tensor.shape[1]


def _n_head(weights: Weights, version: str, n_embd: int) -> int:
    telltale = {"5.0": "time_decay", "5.1": "time_decay", "5.2": "time_decay", "6": "time_faaaa", "7": "r_k"}
    if version == "4":
        return 1
    name = f"blocks.0.att.{telltale[version]}"
    tensor = weights.tensors.get(name)
    if tensor is None or not tensor.shape:
        raise ModelFileError(f"{weights.path}: tensor {name}, which gives the number of heads, is missing")
    n_head = tensor.shape[0]
    if n_head < 1 or n_embd % n_head:
        raise ModelFileError(f"{weights.path}: tensor {name} says {n_head} heads, which does not divide {n_embd} channels")
    return n_head
