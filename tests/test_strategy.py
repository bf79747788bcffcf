"""Strategy strings choose a backend and a weight format; mistakes are pointed at."""
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import BackendError, Model, StrategyError, registry
from rwkv_edge.backend import Availability
from rwkv_edge.strategy import Strategy, parse
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Strategy(None)),
        ("cpu", Strategy("cpu")),
        (" cpu   fp32 ", Strategy("cpu", "f32", "fp32")),
        ("cpu q8_0", Strategy("cpu", "q8_0")),
        ("webgpu fp16", Strategy("webgpu", "f16")),
        ("webgpu int8", Strategy("webgpu", "q8_0")),
        ("webgpu q4_0", Strategy("webgpu", "q4_0")),
        ("cpu q4_k", Strategy("cpu", "q4_k_m")),
        ("cpu fp16i8", Strategy("cpu", "q8_0")),
        ("webgpu:1", Strategy("webgpu", which="1")),
        ("webgpu:radeon fp16", Strategy("webgpu", "f16", which="radeon")),
        ("numpy", Strategy("numpy")),
        ("numpy fp32", Strategy("numpy", "f32", "fp32")),
        ("numpy fp64", Strategy("numpy", None, "fp64")),
    ],
)
def test_strategies_are_read(text: str, expected: Strategy) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("gpu", "character 1: no device 'gpu'"),
        ("cpu fp33", "character 5: cpu has no format 'fp33'"),
        ("cpu fp64", "character 5: cpu has no format 'fp64'; expected one of: fp32"),
        ("cpu fp32 now", "character 10: 'now' is one word too many"),
        ("gpu:1", "character 1: no device 'gpu'"),
        (" webgpu: fp16", "character 9: expected a number or a name"),
        ("webgpu:1 fp33", "character 10: webgpu has no format 'fp33'"),
        ("auto fp32", 'character 6: "auto" takes no format'),
    ],
)
def test_mistakes_are_pointed_at(text: str, message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        parse(text)
    assert message in str(caught.value)


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
    assert registry.best().name == "numpy"
    with pytest.raises(BackendError, match="no Numba here"):
        registry.usable("cpu")


def test_an_unknown_backend_lists_the_installed_ones() -> None:
    with pytest.raises(BackendError, match="cpu, numpy, opencl, webgpu"):
        registry.load("abacus")
