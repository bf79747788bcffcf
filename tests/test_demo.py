"""The bundled model: trained weights, small enough to ship, that the engine runs like the official package does."""
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.demo import MODEL_PATH, PROMPT, SAMPLING

GOLDEN = Path(__file__).parent / "goldens" / "demo.npz"
NEVER_SEEN = ("configparser.py", "heapq.py", "textwrap.py")  # of bench/train_demo.py's HELD_OUT


def test_it_is_small_enough_to_ship() -> None:
    assert MODEL_PATH.stat().st_size <= 6_000_000


def test_its_logits_are_the_official_ones(backend_name: str) -> None:
    with np.load(GOLDEN) as golden, Model(MODEL_PATH, backend_name) as model:
        logits, _ = model.forward(golden["tokens"], full=True)
        assert np.abs(logits - golden["logits"]).max() < 1e-4


@pytest.mark.parametrize("module", NEVER_SEEN)
def test_it_predicts_modules_it_never_saw_in_under_two_bits_a_byte(module: str) -> None:
    text = Path(sysconfig.get_paths()["stdlib"], module).read_bytes()[:4000]
    with Model(MODEL_PATH) as model:
        logits, _ = model.forward([0, *text[:-1]], full=True)
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    bits = -log_p[np.arange(len(text)), list(text)] / np.log(2)
    assert bits.mean() < 2.0


def test_its_text_looks_like_python() -> None:
    with Model(MODEL_PATH) as model:
        text = "".join(model.generate(PROMPT, max_tokens=200, sampling=replace(SAMPLING, seed=seed)) for seed in range(3))
    assert "\n    " in text
    assert "def " in text
    assert "self" in text
