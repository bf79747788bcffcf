"""Strategies choose backends and formats for the layers of a model, and say what they chose."""
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import BackendError, Model, auto, registry
from rwkv_edge.backend import Availability
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny


def test_weights_stay_as_stored_unless_a_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bf16.pth"
    write_pth(path, tiny("7"), dtype="bf16")
    with Model(path, "numpy") as model:
        assert {tensor.format for tensor in model.plan.weights()} == {"bf16"}
    with Model(path, "numpy fp32") as model:
        assert {tensor.format for tensor in model.plan.weights()} == {"f32"}
        expected, _ = model.forward([1, 2])
    with Model(path, "numpy") as model:
        assert np.allclose(model.forward([1, 2])[0], expected, atol=1e-5)


def test_auto_falls_back_to_numpy_where_the_cpu_backend_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = registry.load("cpu")
    monkeypatch.setattr(cpu, "availability", lambda: Availability(False, "no Numba here"))
    assert auto.best().name == "numpy"
    with pytest.raises(BackendError, match="no Numba here"):
        registry.usable("cpu")


def test_an_unknown_backend_lists_the_installed_ones() -> None:
    with pytest.raises(BackendError, match="cpu, numpy, opencl, webgpu"):
        registry.load("abacus")
