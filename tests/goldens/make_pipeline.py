"""Golden texts by the official `rwkv` package's PIPELINE.generate: pipeline.npz beside this file.

Run:  pip install torch rwkv  &&  python -m tests.goldens.make_pipeline

For each case of CASES on the bundled model: <name>_tokens int16, what was drawn after `numpy.random.seed(SEED)`;
<name>_logits float32 [steps, 256], what it was drawn from, bans and penalties included; <name>_pieces, what the callback got.
"""
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_edge.demo import MODEL_PATH

FILE = Path(__file__).parent / "pipeline.npz"
PROMPT = "def read_file(path):\n"
N_TOKENS = 60
SEED = 5
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "alpha_frequency": 0.0, "alpha_presence": 0.0},
    "defaults": {},
    "free": {"temperature": 1.4, "top_p": 0.95, "top_k": 30, "alpha_decay": 0.9, "alpha_frequency": 0.5, "chunk_len": 5},
    "banned": {"temperature": 1.0, "top_p": 0.7, "token_ban": [32, 101], "token_stop": [58]},
}


class Bytes:
    """The bundled model's vocabulary, with the two methods that PIPELINE asks for."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


def run_official(folder: str) -> None:
    """In a process of its own: the package reads its settings from the environment when it is imported."""
    from rwkv.model import RWKV
    from rwkv.utils import PIPELINE, PIPELINE_ARGS

    pipeline = PIPELINE.__new__(PIPELINE)  # its __init__ can only look for vocabulary files
    pipeline.model, pipeline.tokenizer = RWKV(model=f"{folder}/model", strategy="cpu fp32"), Bytes()
    official, out = pipeline.sample_logits, {}
    for name, settings in CASES.items():
        tokens, seen, pieces = [], [], []

        def recorded(logits: Any, tokens: list[int] = tokens, seen: list[Any] = seen, **settings: Any) -> int:
            seen.append(logits.float().numpy().copy())
            tokens.append(official(logits, **settings))
            return tokens[-1]

        pipeline.sample_logits = recorded
        np.random.seed(SEED)  # noqa: NPY002 - the generator that the package draws from
        pipeline.generate(PROMPT, token_count=N_TOKENS, args=PIPELINE_ARGS(**settings), callback=pieces.append)
        out |= {f"{name}_tokens": np.array(tokens, np.int16), f"{name}_logits": np.stack(seen), f"{name}_pieces": pieces}
    np.savez_compressed(FILE, **out)


def main() -> None:
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        weights = {name: tensor.float() for name, tensor in torch.load(MODEL_PATH, weights_only=True).items()}
        torch.save(weights, f"{folder}/model.pth")
        settings = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "1"}
        subprocess.run([sys.executable, "-m", "tests.goldens.make_pipeline", folder], check=True, env=os.environ | settings)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_official(sys.argv[1])
    else:
        main()
