"""Golden logits by the official `rwkv` package: one .npz for each tiny checkpoint and one for the bundled model.

Run:  pip install torch rwkv  &&  python -m tests.goldens.make_logits

Each .npz holds tokens int32 [48]; logits float32 [48, V], after each token, fed one at a time, strategy "cpu fp32", from a
float32 copy of the checkpoint (from a bf16 file the package layer-norms the embedding in bf16); state_*: its final state, in
the package's own layout.
"""
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.demo import MODEL_PATH
from tests.checkpoints.tiny import VERSIONS, tiny

HERE = Path(__file__).parent
N_TOKENS = 48
PYTHON_TEXT = b"import os\n\n\ndef main(path):\n    for name in os.lis"  # for the bundled model, whose tokens are bytes


def golden_tokens(n_vocab: int) -> NDArray[np.int32]:
    """48 ids: random ones, id 0, the last id and an immediate repetition."""
    raw = np.asarray(np.random.PCG64(7).random_raw(N_TOKENS), np.uint64)
    tokens = (1 + raw % np.uint64(n_vocab - 1)).astype(np.int32)
    tokens[10], tokens[11], tokens[20] = 0, n_vocab - 1, tokens[19]
    return tokens


def run_official(checkpoint: str, out: str, tokens: list[int]) -> None:
    """In a process of its own: the package reads its settings from the environment when it is imported."""
    from rwkv.model import RWKV

    model, state, logits = RWKV(model=checkpoint.removesuffix(".pth"), strategy="cpu fp32"), None, []
    for token in tokens:
        y, state = model.forward([token], state)
        logits.append(y.float().numpy().copy())
    states = {f"state_{i}": s.float().numpy() for i, s in enumerate(state)}
    np.savez_compressed(out, tokens=np.array(tokens, np.int32), logits=np.stack(logits), **states)


def make(weights: dict[str, Any], version: str, tokens: Iterable[int], out: Path) -> None:
    """`weights`: name -> torch tensor."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = os.path.join(folder, "model.pth")
        torch.save({name: tensor.float() for name, tensor in weights.items()}, checkpoint)
        command = [sys.executable, "-m", "tests.goldens.make_logits", checkpoint, str(out), *map(str, tokens)]
        settings = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"} | ({"RWKV_V7_ON": "1"} if version == "7" else {})
        subprocess.run(command, check=True, env=os.environ | settings)


def main() -> None:
    import torch

    for version in VERSIONS:
        weights = tiny(version)
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        make(tensors, version, golden_tokens(len(weights["emb.weight"])), HERE / f"tiny-{version}.npz")
    make(torch.load(MODEL_PATH, weights_only=True), "7", PYTHON_TEXT, HERE / "demo.npz")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_official(sys.argv[1], sys.argv[2], [int(t) for t in sys.argv[3:]])
    else:
        main()
