"""Models that bench.make_model writes: they open, their activations behave, their GGUFs are the same model."""
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.make_model import make_gguf, make_pth
from bench.model_check import measure
from bench.sizes import VERSIONS, Sizes
from rwkv_edge import Model

TOKENS = [5, 1, 299, 0, 17, 17]


def logits(path: Path) -> np.ndarray:
    with Model(path, "numpy") as model:
        return model.forward(TOKENS, full=True)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_activations_behave(version: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    make_pth(path, Sizes(version, n_layer=3, n_embd=128, n_vocab=300, ffn_sparsity=0.8))
    out, zeros = measure(path, n_tokens=24)
    assert np.isfinite(out).all()
    assert 1.5 < out.std() < 4
    assert all(0.7 < z < 0.9 for z in zeros)


@pytest.mark.parametrize("version", ["6", "7"])
@pytest.mark.parametrize("type", ["f32", "bf16"])
def test_a_gguf_is_the_same_model(version: str, type: str, tmp_path: Path) -> None:
    pth = tmp_path / "model.pth"
    make_pth(pth, Sizes(version, n_layer=2, n_embd=128, n_vocab=300))
    assert np.abs(logits(make_gguf(pth, type)) - logits(pth)).max() < 1e-4


def test_the_same_seed_makes_the_same_archive_which_any_zip_reader_finds_intact(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    for path in (first, second):
        make_pth(path, Sizes("7", n_layer=1, n_embd=64, n_vocab=64))
    with zipfile.ZipFile(first) as a, zipfile.ZipFile(second) as b:
        assert a.testzip() is None
        assert [e.CRC for e in a.infolist()] == [e.CRC for e in b.infolist()]
