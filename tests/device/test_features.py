"""Features that only some devices have: kernels compute the same with them and without."""
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_device import self_test
from rwkv_edge_device.backend import DeviceBackend
from rwkv_edge_device.driver import Kernel
from rwkv_edge_device.features import WITHOUT, unwanted, used, with_features
from rwkv_edge_device.found import Found
from rwkv_edge_device.trial import as_is_faster as trial
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge import BackendError, Model, registry
from rwkv_edge.backend import Batch
from rwkv_edge.machine import user_cache
from rwkv_edge.plan import PlanBuilder
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny
from tests.conftest import need_backend
from tests.cpu.plans import deep_plan
from tests.device.fake import FakeDriver
from tests.ops.test_ops import ROW_OPS, Inputs, assert_same, blocks, stored

ALL = {"webgpu": ("f16", "subgroup", "packed_dot"), "opencl": ("subgroup", "packed_dot")}
SUBSETS = [(name, used) for name in ALL for used in ((), *((one,) for one in ALL[name]), ALL[name])]
BLOCK_FORMATS = [name for name, format in FORMATS.items() if not format.is_float]
UNIT = 8
TEXT = "a\n//if one\nb\n//else\nc\n//end\nd\n//if two\n  e\n//end"


def ids(name: str, features: tuple[str, ...]) -> str:
    return f"{name} {'+'.join(features) or 'none'}"


@pytest.fixture(params=SUBSETS, ids=lambda pair: ids(*pair))
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DeviceBackend:
    """A backend whose device has these features and no others. Where it has too few the test is skipped, or fails where
    RWKV_EDGE_NEED has "webgpu:f16" or the like."""
    name, features = request.param
    need_backend(name)
    backend = registry.load(name)
    assert isinstance(backend, DeviceBackend)
    if missing := set(features) - set(backend.found()[0].features):
        needed = {f"{name}:{feature}" for feature in missing} & set(os.environ.get("RWKV_EDGE_NEED", "").split(","))
        (pytest.fail if needed else pytest.skip)(f"the device has no {' and no '.join(sorted(missing))}")
    monkeypatch.setenv(WITHOUT, ",".join(set(ALL[name]) - set(features)))
    monkeypatch.setattr("rwkv_edge_device.trial.as_is_faster", lambda compiler, device, *_: device)
    return backend


def only(*wanted: tuple[str, str]) -> pytest.MarkDecorator:
    """Backends with one feature each."""
    pairs = [(name, (feature,)) for name, feature in wanted]
    return pytest.mark.parametrize("device", pairs, ids=[ids(*pair) for pair in pairs], indirect=True)


PACKED_DOT = only(*((name, "packed_dot") for name in ALL))


@pytest.mark.parametrize(("names", "kept"), [("", "acd"), ("one", "abd"), ("two", "acd  e"), ("one two", "abd  e")])
def test_lines_for_features(names: str, kept: str) -> None:
    assert with_features(TEXT, names.split()).replace("\n", "") == kept


def test_features_concern_kernels() -> None:
    every = ("f16", "subgroup", "packed_dot")
    assert used(Kernel(("matmul", "f16", "dot"), (), ""), every) == {"f16", "subgroup"}
    assert used(Kernel(("matmul", "codes4", "tiles"), (), ""), every) == {"subgroup", "packed_dot"}
    assert used(Kernel(("matmul", "codes4", "dot"), (), ""), every) == {"subgroup"}
    assert used(Kernel(("rows",), (), ""), ()) == set()


def test_what_is_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, names in (("", []), ("f16, subgroup", ["f16", "subgroup"])):
        monkeypatch.setenv(WITHOUT, text)
        assert unwanted() == names
    monkeypatch.setenv(WITHOUT, "f16,packed-dot")
    with pytest.raises(BackendError, match="RWKV_EDGE_WITHOUT has 'packed-dot'; features are f16, subgroup, packed_dot"):
        unwanted()


class Card(DeviceBackend):
    """With a feature that it may have, and drivers that note it."""

    name, library, noun, none_found, sources = "opencl", "numpy", "card", "no card", registry.load("opencl").sources  # type: ignore[attr-defined]

    def __init__(self, which: str | None = None) -> None:
        super().__init__(which)
        self.opened: list[tuple[str, ...]] = []

    def found(self) -> list[Found]:
        return [Found("a card", "discrete", "1.0", "OpenCL", None, features=("subgroup",))]

    def open(self, device: Found) -> FakeDriver:
        self.opened.append(device.features)
        return FakeDriver()


@pytest.mark.parametrize(("wrong", "used"), [([""], ("subgroup",)), (["bad", ""], ())])
def test_features_that_work_are_used(
    wrong: list[str], used: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: wrong.pop(0))
    card = Card()
    for _ in range(2):  # the second time by what is remembered
        card.compile(deep_plan()).close()
        assert card.opened[-1] == used
    assert ("a card goes on without subgroup: bad" in caplog.text) == (used == ())


@pytest.mark.parametrize("features", [("subgroup",), ("subgroup", "packed_dot")])
def test_a_card_whose_compiler_refuses_features(
    features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here the trial of one may meet it first."""

    class Refusing(Card):
        def found(self) -> list[Found]:
            return [replace(found, features=features) for found in super().found()]

        def open(self, device: Found) -> FakeDriver:
            if device.features:
                raise BackendError("no such function")
            return super().open(device)

    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    monkeypatch.setattr("rwkv_edge_device.trial.as_is_faster", trial)
    monkeypatch.setattr(self_test, "find_wrong", lambda compile, _: compile(deep_plan()).close() or "")
    card = Refusing()
    card.compile(deep_plan()).close()
    assert card.opened[-1] == ()
    assert f"a card goes on without {', '.join(features)}: no such function" in caplog.text


def test_a_card_is_tested_anew_with_another_driver_or_other_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    tests = []
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: tests.append("one") or "")
    (found,) = Card().found()
    for driver, without, tested in (("1", "", 1), ("1", "", 1), ("2", "", 2), ("2", "subgroup", 3), ("1", "", 3)):
        monkeypatch.setattr(Card, "found", Mock(return_value=[replace(found, driver=driver)]))
        monkeypatch.setenv(WITHOUT, without)
        Card().compile(deep_plan()).close()
        assert len(tests) == tested


def test_a_card_that_is_wrong_without_features_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    monkeypatch.setattr(self_test, "find_wrong", lambda *_: "all is zero")
    with pytest.raises(BackendError, match=r"a card \(discrete, OpenCL\) computes wrongly \(all is zero\); update its driver"):
        Card().compile(deep_plan())
    assert "goes on" not in caplog.text


def test_all_ops(device: DeviceBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far nearer to NumPy than the self-test asks; and the kernels have the features that they should."""
    executable = device.compile(self_test.small_plan())
    assert executable.driver.features == device.found()[0].without(*os.environ[WITHOUT].split(",")).features  # type: ignore[attr-defined]
    monkeypatch.setattr(self_test, "TOLERANCE", 1e-5)
    assert self_test.find_wrong(lambda _: executable, numpy_backend.compile) == ""


def test_norms(device: DeviceBackend) -> None:
    """Rows shorter than a subgroup, and longer than a workgroup."""
    for seed, width in enumerate((1, 3, 70, 300)):
        assert_same(device, lambda p, s=seed, w=width: ROW_OPS["norm of norm"](p, Inputs(p, s, w)), (1, 3, 2))


@only(("webgpu", "f16"), ("webgpu", "subgroup"), ("opencl", "subgroup"))
@pytest.mark.parametrize("tokens", [1, 3, 8, 33])
def test_float16_products(device: DeviceBackend, tokens: int) -> None:
    """Also of the numbers that are special: zeros, the smallest, the largest."""
    values = np.random.default_rng(0).standard_normal((9, 520))
    values[:, :6] = 0, -0.0, 6e-8, -6e-5, 65504, -65504
    weight = stored(values.astype(np.float32), "f16")
    assert_same(device, lambda p: p.matmul(Inputs(p, 5, 520)(), weight), (tokens,))


def product(device: DeviceBackend, weight: Tensor, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x @ weight.T, all rows of x in one run."""
    p = PlanBuilder()
    executable = device.compile(p.finish(p.matmul(p.input(x.shape[1]), weight)))
    nothing = np.zeros(0, np.int32)
    (result,) = executable.run(Batch(np.zeros(len(x), np.int32), [len(x)], [np.zeros(0, np.float32)], nothing, [x]))
    executable.close()
    return result


@PACKED_DOT
@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_packed_products(device: DeviceBackend, format: str) -> None:
    """Inputs are rounded to bytes: half a step of each unit's inputs times the weights it meets is lost at most."""
    for tokens, width in ((9, 768), (33, 512), (64, 256)):
        weight = blocks(format, 37, width, tokens)
        w, x = weight.decode(), np.random.default_rng(tokens).standard_normal((tokens, width)).astype(np.float32)
        steps = np.abs(x).reshape(tokens, -1, UNIT).max(axis=2) / 127
        lost = 0.5001 * steps @ np.abs(w).reshape(37, -1, UNIT).sum(axis=2).T
        # Offsets are no part of the codes' products, so sums may be larger than the result.
        rounding = 2e-6 * (np.abs(x) @ (np.abs(w) + np.abs(w).max()).T)
        assert (np.abs(product(device, weight, x) - x @ w.T) <= lost + rounding).all()


@PACKED_DOT
@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_packed_products_of_whole_numbers_are_exact(device: DeviceBackend, format: str) -> None:
    """Each weight's code is seen by itself: such inputs lose nothing."""
    weight = blocks(format, 5, 256)
    for tokens in (9, 20):
        x = np.random.default_rng(0).integers(-127, 128, (tokens, 256)).astype(np.float32)
        x[:, ::UNIT] = 127
        expected = x.astype(np.float64) @ weight.decode().astype(np.float64).T
        np.testing.assert_allclose(product(device, weight, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@PACKED_DOT
@pytest.mark.parametrize("format", ["q8_0", "q4_k"])
def test_packed_products_of_tiny_and_huge_inputs(device: DeviceBackend, format: str) -> None:
    """No scale is divided by that is too small for it, and none overflows."""
    weight = blocks(format, 5, 256)
    x = np.ones((12, 256), np.float32) * np.tile(np.array([[0], [1e-38], [1e-27], [1e30]], np.float32), (3, 1))
    expected = x @ weight.decode().T
    np.testing.assert_allclose(product(device, weight, x), expected, rtol=1e-4, atol=1e-30)


@PACKED_DOT
@pytest.mark.parametrize("format", ["q8_0", "q4_0"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_packed_products_of_what_is_no_number_are_none(device: DeviceBackend, format: str, wrong: float) -> None:
    """And other rows are what they were."""
    weight, x = blocks(format, 5, 256), np.ones((12, 256), np.float32)
    x[3, 40] = wrong
    result = product(device, weight, x)
    assert not np.isfinite(result[3]).any()
    assert np.isfinite(np.delete(result, 3, axis=0)).all()


EXTREMES = [pair for pair in SUBSETS if pair[1] in ((), ALL[pair[0]])]
TOLERANCES = {"fp16": 1e-5, "int8": 0.05}  # root mean square, of logits with standard deviation 2
# Features are of products and norms, which versions share: each has one of the words, the newest both.
MODELS = [("4", "fp16"), ("5.2", "int8"), ("6", "fp16"), ("7", "fp16"), ("7", "int8")]


@pytest.mark.parametrize("device", EXTREMES, ids=[ids(*pair) for pair in EXTREMES], indirect=True)
@pytest.mark.parametrize(("version", "word"), MODELS)
def test_models(device: DeviceBackend, version: str, word: str, tmp_path: Path) -> None:
    """As the NumPy backend, token by token, at once and as a batch; int8 as near as the CPU, which rounds inputs too."""
    path, tokens = tmp_path / "model.pth", [5, 9, 20, 31, 7, 8]
    write_pth(path, tiny(version), dtype="f32")
    with Model(path, f"{device.name} {word}") as model, Model(path, f"numpy {word}") as same:
        expected = same.forward(tokens, full=True)[0]
        state = model.new_state()
        serial = np.stack([model.forward([token], state)[0] for token in tokens])
        chunked = model.forward(tokens, full=True)[0]
        batched = model.forward_batch([tokens, tokens[:2], tokens], full=True)[0]
    for ours, wanted in ((serial, expected), (chunked, expected), (batched[0], expected), (batched[1], expected[:2])):
        assert np.sqrt(np.mean((ours - wanted) ** 2)) < TOLERANCES[word]
