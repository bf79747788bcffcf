"""The `rwkv` package's classes over this engine: the same names, signatures, defaults and meaning, on NumPy arrays.

    from rwkv_edge.compat import RWKV, PIPELINE, PIPELINE_ARGS  # for: from rwkv.model import RWKV, ...

`install()` makes the original import lines work, too, and `rwkv-edge script FILE` runs a script that has them unchanged.
Source of the semantics: the `rwkv` package, version 0.8 (pypi.org/project/rwkv).
"""
from rwkv_edge.compat.model import RWKV
from rwkv_edge.compat.modules import install
from rwkv_edge.compat.pipeline import PIPELINE, PIPELINE_ARGS
from rwkv_edge.compat.tokenizer import TRIE_TOKENIZER

__all__ = ["PIPELINE", "PIPELINE_ARGS", "RWKV", "TRIE_TOKENIZER", "install"]
