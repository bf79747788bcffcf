"""Features that only some adapters have: kernels compute the same with them and without."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rwkv_edge_webgpu.driver
from rwkv_edge_numpy import backend as numpy_backend
from rwkv_edge_webgpu import adapters, backend
from rwkv_edge_webgpu.features import FEATURES, WITHOUT, wanted
from rwkv_edge_webgpu.opened import Opened
from rwkv_edge_webgpu.source import with_features

from rwkv_edge import Model
from rwkv_edge.device import self_test
from rwkv_edge.device.opened import OpenDevices
from rwkv_edge.plan import Plan
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import need_backend
from tests.ops.test_device_ops import ROW_OPS, Inputs, assert_same, stored

TEXT = "a\n//if one\nb\n//else\nc\n//end\nd\n//if two\n  e\n//end"


@pytest.fixture(params=[(), *((name,) for name in FEATURES), tuple(FEATURES)], ids=lambda names: "+".join(names) or "none")
def features(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An adapter with these and no others, as kernels call them; it is opened anew."""
    need_backend("webgpu")
    offered = adapters.found()[0].handle.features
    if missing := set(request.param) - set(offered):
        pytest.skip(f"the adapter has no {' and no '.join(sorted(missing))}")
    monkeypatch.setenv(WITHOUT, ",".join(set(FEATURES) - set(request.param)))
    opened = OpenDevices(Opened)
    monkeypatch.setattr(rwkv_edge_webgpu.driver, "OPENED", opened)
    used = [FEATURES[name] for name in request.param]
    yield used
    assert opened.get(adapters.found()[0]).features == used


def test_which_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WITHOUT, raising=False)
    assert wanted({"subgroup", "shader-f16", "texture-atomic"}) == ("shader-f16", "subgroup")
    assert wanted(()) == ()
    monkeypatch.setenv(WITHOUT, "subgroup,other")
    assert wanted({"subgroup", "shader-f16"}) == ("shader-f16",)


@pytest.mark.parametrize(("names", "kept"), [("", "acd"), ("one", "abd"), ("two", "acd  e"), ("one two", "abd  e")])
def test_lines_for_features(names: str, kept: str) -> None:
    assert with_features(TEXT, names.split()).replace("\n", "") == kept


def test_all_ops(features: list[str]) -> None:
    """Far nearer to NumPy than the self-test asks."""
    executable = backend.compile(plan := self_test.small_plan())

    def compiled(_: Plan) -> object:
        return executable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_test, "TOLERANCE", 1e-5)
        assert self_test.find_wrong(compiled, numpy_backend.compile) == "", plan  # type: ignore[arg-type]


def test_norms(features: list[str]) -> None:
    """Rows shorter than a subgroup, and longer than a workgroup."""
    for seed, width in enumerate((1, 3, 70, 300)):
        assert_same(backend, lambda p, s=seed, w=width: ROW_OPS["norm of norm"](p, Inputs(p, s, w)), (1, 3, 2))


@pytest.mark.parametrize("tokens", [1, 3, 8, 33])
def test_float16_products(features: list[str], tokens: int) -> None:
    """Also of the numbers that are special: zeros, the smallest, the largest."""
    values = np.random.default_rng(0).standard_normal((9, 520))
    values[:, :6] = 0, -0.0, 6e-8, -6e-5, 65504, -65504
    weight = stored(values.astype(np.float32), "f16")
    assert_same(backend, lambda p: p.matmul(Inputs(p, 5, 520)(), weight), (tokens,))


@pytest.mark.parametrize("features", [(), tuple(FEATURES)], ids=["none", "all"], indirect=True)
@pytest.mark.parametrize("version", VERSIONS)
def test_models(features: list[str], version: str, tmp_path: Path) -> None:
    """In float16: as the NumPy backend, token by token, at once and as a batch."""
    path, tokens = tmp_path / "model.pth", [5, 9, 20, 31, 7, 8]
    write_pth(path, tiny(version), dtype="f32")
    with Model(path, "webgpu fp16") as model, Model(path, "numpy fp16") as same:
        expected = same.forward(tokens, full=True)[0]
        state = model.new_state()
        serial = np.stack([model.forward([token], state)[0] for token in tokens])
        chunked = model.forward(tokens, full=True)[0]
        batched = model.forward_batch([tokens, tokens[:2], tokens], full=True)[0]
    for ours in (serial, chunked, batched[0], batched[2]):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    np.testing.assert_allclose(batched[1], expected[:2], atol=1e-4)
