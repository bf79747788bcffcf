"""A checkpoint under the names, shapes and orientations that other projects' converters give it."""
import re
from collections.abc import Callable

import numpy as np

from tests.checkpoints.tiny import Checkpoint

LOW_RANK_7 = re.compile(r"blocks\.\d+\.att\.([wavg])([12])")
WEB_RWKV_TRANSPOSED = re.compile(r".*\.att\.(time_mix_w[12]|time_decay_w[12]|[wavg][12]|time_state)")


def hugging_face(checkpoint: Checkpoint) -> Checkpoint:
    """transformers' RWKV-4 and the remote-code 5, 6, 7."""
    spelled_out = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}

    def name(ours: str) -> str:
        ours = re.sub(r"^(blocks|emb|ln_out)\.", r"rwkv.\1.", ours)
        ours = ours.replace(".emb.", ".embeddings.").replace(".ln0.", ".pre_ln.")
        ours = re.sub(r"\.time_mix_([kvrg])$", lambda m: f".time_mix_{spelled_out[m[1]]}", ours)
        return ours.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")

    return {name(ours): array for ours, array in checkpoint.items()}


def fla(checkpoint: Checkpoint) -> Checkpoint:
    """flash-linear-attention's RWKV-7: low-rank maps as Linear modules, none for the values of layer 0."""
    top = {
        "emb.weight": "embeddings.weight", "ln_out.weight": "norm.weight", "ln_out.bias": "norm.bias",
        "head.weight": "lm_head.weight",
    }  # fmt: skip
    modules = {
        "ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm", "att.key": "attn.k_proj",
        "att.receptance": "attn.r_proj", "att.value": "attn.v_proj", "att.output": "attn.o_proj",
    }  # fmt: skip
    out: Checkpoint = {}
    for ours, array in checkpoint.items():
        if re.fullmatch(r"blocks\.0\.att\.v[012]", ours):
            continue
        if ours in top:
            out["lm_head.weight" if ours == "head.weight" else f"model.{top[ours]}"] = array
            continue
        _, layer, inner = ours.split(".", 2)
        if lora := re.fullmatch(r"att\.([wavg])([012])", inner):
            part = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[lora[2]]
            out[f"model.layers.{layer}.attn.{lora[1]}_lora.lora.{part}"] = array.ravel() if lora[2] == "0" else array.T
            continue
        module, _, parameter = inner.rpartition(".")
        theirs = f"{modules[module]}.{parameter}" if module in modules else re.sub(r"^att\.", "attn.", inner)
        out[f"model.layers.{layer}.{theirs}"] = array
    return out


def web_rwkv(checkpoint: Checkpoint) -> Checkpoint:
    """web-rwkv's convert_safetensors.py."""
    version_51 = "blocks.0.att.gate.weight" in checkpoint and checkpoint["blocks.0.att.time_decay"].ndim == 1
    out: Checkpoint = {}
    for ours, array in checkpoint.items():
        theirs = ours.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
        if version_51 and re.search(r"time_decay|time_faaaa", ours):
            array = np.repeat(array[:, None], checkpoint["emb.weight"].shape[1] // len(array), axis=1)
        out[theirs] = array.swapaxes(-1, -2) if WEB_RWKV_TRANSPOSED.fullmatch(theirs) else array
    return out


NAMINGS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "original": lambda checkpoint: checkpoint,
    "hf": hugging_face,
    "fla": fla,
    "web_rwkv": web_rwkv,
}


def renamed(checkpoint: Checkpoint, naming: str) -> Checkpoint:
    """`checkpoint` (BlinkDL's names) as `naming`, a key of NAMINGS, has it."""
    return NAMINGS[naming](checkpoint)
