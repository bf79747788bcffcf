"""Golden distributions and a golden penalty sequence by the official `rwkv` package: sampling.npz beside this file.

Run:  pip install torch rwkv  &&  python -m tests.goldens.make_sampling

distributions: float32 [rows of ROWS, cases of CASES, 32], what `PIPELINE.sample_logits` hands to its random choice.
tokens: int16 [N_STEPS]; penalized: float32 [N_STEPS, 16]: what `PIPELINE.generate` drew with SETTINGS after
`numpy.random.seed(SEED)`, and the logits it drew from, over the vocabulary TEXTS and the logits of `step_logits`.
"""
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "sampling.npz"
Case = tuple[float, float, int]  # temperature, top_p, top_k
CASES: tuple[Case, ...] = tuple(product((0.0, 0.3, 1.0, 2.5), (0.0, 0.3, 0.85, 0.97), (0, 1, 5)))

TEXTS = (" ", "1", "12", "13", "a", "b", "\n", "\t", "0", "  ", "the", " the", ".", "9", "\t ", " \t")
N_STEPS = 48
SEED = 11
SETTINGS = {"temperature": 1.2, "top_p": 0.9, "alpha_presence": 0.6, "alpha_frequency": 0.8, "alpha_decay": 0.95}


def uniform(seed: int, *shape: int) -> NDArray[np.float64]:
    """From 0 to below 1, the same on every platform and NumPy release."""
    raw = np.asarray(np.random.PCG64(seed).random_raw(int(np.prod(shape))), np.uint64)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def rows() -> dict[str, NDArray[np.float32]]:
    """Logits of 32 tokens with every kind of coincidence."""
    spread = uniform(1, 32) * 8 - 4
    made = {
        "spread": spread,
        "flat": uniform(2, 32) * 0.1,
        "peaked": np.where(np.arange(32) == 20, 12.0, spread),
        "levels": np.floor(uniform(3, 32) * 4),
        "equal": np.full(32, -3.0),
        "two tops": np.where(np.arange(32) % 16 == 5, 6.0, spread),
        "banned": np.where(np.arange(32) % 3 == 0, -np.inf, spread),
        "huge": spread * 1e30,
    }
    return {name: row.astype(np.float32) for name, row in made.items()}


def step_logits() -> NDArray[np.float32]:
    """What the model of the penalty sequence says at each step, whatever it was fed."""
    return (uniform(4, N_STEPS, len(TEXTS)) * 4).astype(np.float32)


def official_distribution(pipeline: Any, row: NDArray[np.float32], case: Case) -> NDArray[np.float32]:
    import torch

    seen: list[NDArray[np.float32]] = []

    def choice(a: int, p: NDArray[np.float32]) -> int:
        seen.append(p)
        return 0

    with patch("numpy.random.choice", choice):
        pipeline.sample_logits(torch.from_numpy(row.copy()), *case)
    return seen[0]


def official_sequence(pipeline: Any) -> tuple[list[int], list[NDArray[np.float32]]]:
    import torch
    from rwkv.utils import PIPELINE_ARGS

    steps, penalized, tokens = iter(step_logits()), [], []
    draw = pipeline.sample_logits

    class Model:
        def forward(self, tokens: list[int], state: None) -> tuple[Any, None]:
            return torch.from_numpy(next(steps).copy()), None

    class Vocabulary:
        def encode(self, text: str) -> list[int]:
            return [0]

        def decode(self, tokens: list[int]) -> str:
            return "".join(TEXTS[token] for token in tokens)

    def sample_logits(logits: Any, **settings: Any) -> int:
        penalized.append(logits.numpy().copy())
        tokens.append(draw(logits, **settings))
        return tokens[-1]

    pipeline.model, pipeline.tokenizer, pipeline.sample_logits = Model(), Vocabulary(), sample_logits
    np.random.seed(SEED)  # noqa: NPY002  the generator the official package uses
    pipeline.generate("", N_STEPS, PIPELINE_ARGS(**SETTINGS))
    return tokens, penalized


def main() -> None:
    from rwkv.utils import PIPELINE

    pipeline = PIPELINE.__new__(PIPELINE)  # without its model and vocabulary
    distributions = [[official_distribution(pipeline, row, case) for case in CASES] for row in rows().values()]
    tokens, penalized = official_sequence(pipeline)
    np.savez_compressed(
        FILE,
        distributions=np.array(distributions, np.float32),
        tokens=np.array(tokens, np.int16),
        penalized=np.array(penalized, np.float32),
    )


if __name__ == "__main__":
    main()
