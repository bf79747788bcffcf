"""Names of the Hugging Face transformers models: RWKV-4 (`RwkvForCausalLM`), and the remote-code ones of 5, 6 and 7.

rwkv.blocks.N.attention.*, .feed_forward.*, pre_ln; versions 4 and 5 spell time_mix_{k,v,r,g} out; low-rank matrices as
in BlinkDL's files. Source: transformers' models/rwkv/convert_rwkv_checkpoint_to_hf.py and modeling_rwkv.py; for 5 and
6, modeling_rwkv5.py and modeling_rwkv6.py of the RWKV organisation's model repositories.
"""
import re

from rwkv_edge.weights.names.shapes import weights_of
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Weights

# In this order.
RENAMED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^(rwkv|model)\.", ""),
        (r"^embeddings\.", "emb."),
        (r"^lm_head\.", "head."),
        (r"^(blocks|layers)\.", "blocks."),
        (r"^(blocks\.\d+)\.pre_ln\.", r"\1.ln0."),
        (r"^(blocks\.\d+)\.attention\.", r"\1.att."),
        (r"^(blocks\.\d+)\.feed_forward\.", r"\1.ffn."),
        (r"\.time_mix_(k)ey$|\.time_mix_(v)alue$|\.time_mix_(r)eceptance$|\.time_mix_(g)ate$", r".time_mix_\1\2\3\4"),
    )
)
TELLTALE = re.compile(r"^(rwkv|model)\.(blocks|layers)\.\d+\.attention\.|^blocks\.\d+\.attention\.")


def recognise(raw: RawFile) -> bool:
    return any(TELLTALE.match(name) for name in raw.tensors)


def our_name(name: str) -> str:
    for pattern, ours in RENAMED:
        name = pattern.sub(ours, name)
    return name


def to_ours(raw: RawFile) -> Weights:
    """Renamed; low-rank matrices transposed and vectors flattened (views). Values are never divided in these files."""
    return weights_of(raw, (t.renamed(our_name(name)) for name, t in raw.tensors.items()), low_rank_in_out=True)
