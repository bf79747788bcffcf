"""The search for scales and codes in NumPy: the definition that compiled encoders are tested against."""
import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode import affine, codebook, symmetric
from rwkv_edge.quant.encode.arithmetic import Floats
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme


def search(scheme: Scheme, x: Floats, w: Floats) -> Parts:
    """See `parts.Search`."""
    parts = Parts.empty(scheme, len(x))
    lanes = _lanes(scheme, x), _lanes(scheme, np.tile(w, (len(x) // len(w), 1)))
    with np.errstate(over="ignore", under="ignore"):
        find = affine.find if scheme.offset_high else codebook.find if scheme.grid is not None else symmetric.find
        find(scheme, *lanes, parts)
    return parts


def _lanes(scheme: Scheme, x: Floats) -> NDArray[np.float32]:
    """[blocks, groups * size] -> [size, groups, blocks]"""
    return np.ascontiguousarray(x.reshape(-1, scheme.groups, scheme.size).transpose(2, 1, 0))
