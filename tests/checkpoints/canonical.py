"""What every reader must make of a tiny checkpoint: our names, vectors flat, matrices [out, in], heads [H, N]."""
import re

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints.tiny import Checkpoint

LOW_RANK = re.compile(r"blocks\.\d+\.att\.([wavg][12]|time_maa_w[12]|time_decay_w[12])")
KEPT = re.compile(r".*\.weight|.*\.(time_faaaa|r_k)")


def canonical(checkpoint: Checkpoint) -> Checkpoint:
    return {name: _canonical(name, array) for name, array in checkpoint.items()}


def _canonical(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    if LOW_RANK.fullmatch(name):
        return array.swapaxes(-1, -2)
    if KEPT.fullmatch(name) or (name.endswith("time_decay") and array.ndim == 2):
        return array
    return array.reshape(-1)
