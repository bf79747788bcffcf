"""Names of flash-linear-attention's RWKV-7 (`RWKV7ForCausalLM`), also used by the released RWKV7-Goose repositories.

Low-rank maps are Linear modules, so [out, in] as ours, and their bias is w0, a0, v0; layer 0 has no v map. Files of
early 2025 hold the six x_* in one tensor x_x [6, C]. Source: fla/models/rwkv7 and fla/layers/rwkv7.py.
"""
import re
from collections.abc import Iterator

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Tensor, Weights

OURS: dict[str, str] = {
    "pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2", "attn.g_norm": "att.ln_x",
    "attn.r_proj": "att.receptance", "attn.k_proj": "att.key", "attn.v_proj": "att.value", "attn.o_proj": "att.output",
}  # fmt: skip
TOP: dict[str, str] = {
    "embeddings.weight": "emb.weight", "lm_head.weight": "head.weight",
    "norm.weight": "ln_out.weight", "norm.bias": "ln_out.bias",
}  # fmt: skip
LAYER = re.compile(r"layers\.(\d+)\.(.+)")
LOW_RANK = re.compile(r"attn\.([wavg])_lora\.lora\.(0\.weight|2\.weight|2\.bias)")
LOW_RANK_PART = {"0.weight": "1", "2.weight": "2", "2.bias": "0"}
MIXES = "rwkvag"  # the rows of x_x
TELLTALE = re.compile(r"(model\.)?layers\.\d+\.attn\.(r_k|w_lora\.lora\.0\.weight)")


def recognise(raw: RawFile) -> bool:
    return any(TELLTALE.fullmatch(name) for name in raw.tensors)


def our_name(name: str) -> str:
    name = name.removeprefix("model.")
    layer = LAYER.fullmatch(name)
    if layer is None:
        return TOP.get(name, name)
    block, inner = f"blocks.{layer[1]}.", layer[2]
    if lora := LOW_RANK.fullmatch(inner):
        return f"{block}att.{lora[1]}{LOW_RANK_PART[lora[2]]}"
    module, _, parameter = inner.rpartition(".")
    if module in OURS:
        return f"{block}{OURS[module]}.{parameter}"
    return block + re.sub(r"^attn\.", "att.", inner)


def to_ours(raw: RawFile) -> Weights:
    """Renamed; vectors flattened (views)."""
    return weights_of(raw, _renamed(raw), low_rank_in_out=False)


def _renamed(raw: RawFile) -> Iterator[Tensor]:
    for name, tensor in raw.tensors.items():
        ours = our_name(name)
        if not ours.endswith(".att.x_x"):
            yield tensor.renamed(ours)
            continue
        if not tensor.shape or tensor.shape[0] != len(MIXES):
            shape = list(tensor.shape)
            raise ModelFileError(f"{raw.path}: tensor {quoted(name)} has shape {shape}, expected [6, channels]")
        rows = tensor.reshape(len(MIXES), tensor.size // len(MIXES))
        for i, mix in enumerate(MIXES):
            yield rows[i].renamed(ours.removesuffix("x_x") + f"x_{mix}")
