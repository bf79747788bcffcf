"""Products that leave the weights of zero activations unread: every format and instruction set, against NumPy."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_cpu import backend as cpu
from rwkv_edge_cpu.code.target import OVERRIDE, chosen
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge import Model
from rwkv_edge.backend import Batch, CompileOptions
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor
from tests.checkpoints.tiny import VERSIONS
from tests.ops.test_cpu_matmul import instruction_sets, random_blocks

pytestmark = [
    pytest.mark.skipif(not cpu.availability().available, reason=cpu.availability().reason),
    pytest.mark.usefixtures("instruction_set"),
]

Array = NDArray[Any]
SHAPES = ((1, 256), (48, 512), (130, 768), (700, 256))  # fewer outputs than a tile, not whole tiles, several


def matrix(format: str, n_out: int, n: int) -> Tensor:
    if not FORMATS[format].is_float:
        return random_blocks(format, n_out, n)
    values = np.random.default_rng(0).standard_normal((n_out, n)).astype(np.float32)
    if format == "bf16":
        return Tensor("w", (n_out, n), format, (values.view(np.uint32) >> 16).astype(np.uint16))
    return Tensor("w", (n_out, n), format, values.astype(FLOAT_STORAGE[format]))


def vectors(n: int) -> NDArray[np.float32]:
    """Rows before relu²: nothing is left; one key; a third; all but a few; all."""
    x = np.random.default_rng(1).standard_normal((5, n)).astype(np.float32)
    x[0] = -1
    x[1] = -1
    x[1, n // 3] = 2
    x[2] -= 0.5
    x[3:] = np.abs(x[3:]) + 0.1
    x[3, ::40] = -1
    return x


def plan_of(weight: Tensor, x: NDArray[np.float32]) -> Plan:
    b = PlanBuilder()
    return b.finish(b.matmul(b.activation(b.embed(Tensor("x", x.shape, "f32", x)), "relu_squared"), weight))


def one_by_one(executable: Any, n: int) -> Array:
    none = np.zeros(0, executable.state_dtype)
    return np.concatenate(
        [executable.run(Batch(np.array([i], np.int32), [1], [none], np.zeros(0, np.int32)))[0] for i in range(n)]
    )


def results(weight: Tensor, x: NDArray[np.float32], sparse: bool, threads: int = 2) -> Array:
    executable = cpu.compile(plan_of(weight, x), CompileOptions(threads=threads, sparse=sparse))
    result = one_by_one(executable, len(x))
    executable.close()
    return result


@pytest.fixture(params=instruction_sets())
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, request.param)


@pytest.fixture(autouse=True)
def always_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also rows with few zeros, for which reading everything is faster."""
    from rwkv_edge_cpu.run import sparse_op

    monkeypatch.setattr(sparse_op, "MOST_KEYS", 2.0)


def rounding_of(weight: Tensor, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of activations to bytes, half a step of each run, where weights are in blocks; and of float32 sums."""
    w = weight.decode().astype(np.float64)
    sums = 2e-6 * (x @ (np.abs(w) + np.abs(w).max()).T)
    if FORMATS[weight.format].is_float:
        return sums
    steps = x.reshape(len(x), -1, 32).max(axis=2) / 127
    return sums + 0.5001 * steps @ np.abs(w).reshape(len(w), -1, 32).sum(axis=2).T


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(format: str, shape: tuple[int, int]) -> None:
    weight, x = matrix(format, *shape), vectors(shape[1])
    found = results(weight, x, True, threads=1 + shape[0] % 3)
    dense = results(weight, x, False)
    size = np.abs(dense).max(axis=1, keepdims=True)
    sizes = np.maximum(x, 0) ** 2 @ np.abs(weight.decode()).T
    assert (np.abs(found - dense) <= 2e-6 * (size + sizes)).all()  # the order of the sums is all that differs
    exact = one_by_one(numpy_backend.compile(plan_of(weight, x), CompileOptions(precision="fp64")), len(x))
    assert (np.abs(found - exact) <= rounding_of(weight, np.maximum(x.astype(np.float64), 0) ** 2)).all()
    np.testing.assert_array_equal(found[0], 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_reach_the_result(format: str, value: float) -> None:
    weight, x = matrix(format, 40, 512), vectors(512)
    x[0, 300] = x[2, 17] = value
    found = results(weight, x, True)
    assert not np.isfinite(found[[0, 2]]).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(results(weight, x, False)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_make_nan_of_zeros_too(format: str, value: float) -> None:
    weight, x = matrix(format, 700, 512), vectors(512)
    data = weight.data.copy()
    if not FORMATS[format].is_float:
        data[650].view(LAYOUTS[format])["d"][-1] = value
    else:
        data[650, 300] = value if format != "bf16" else np.array(value, np.float32).view(np.uint32) >> 16
    weight = Tensor("w", weight.shape, format, data)
    found, dense = results(weight, x, True), results(weight, x, False)
    assert not np.isfinite(found[:, 650]).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(dense))
    np.testing.assert_allclose(found, dense, rtol=0, atol=2e-6 * np.nanmax(np.abs(np.delete(dense, 650, axis=1))))


def copies(executable: Any) -> list[int]:
    """For each matrix that goes by key, how many of its tiles have been re-laid."""
    from rwkv_edge_cpu.kernels import sparse
    from rwkv_edge_cpu.run.steps import Product

    kept = {array.ctypes.data: array for array in executable._records.kept}
    found = []
    for step, record in zip(executable._records.steps, executable._records.fields, strict=True):
        if isinstance(step, Product) and step.keys is not None:
            from rwkv_edge_cpu.shape.layout import SPARSE

            found.append(int(np.sum(kept[kept[record[SPARSE]][sparse.READY]] == sparse.COPIED)))
    return found


def test_the_copy_is_made_when_a_row_with_many_zeros_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    from rwkv_edge_cpu.run import sparse_op

    monkeypatch.setattr(sparse_op, "MOST_KEYS", 0.6)
    weight, x = matrix("q4_0", 700, 512), vectors(512)
    executable = cpu.compile(plan_of(weight, x), CompileOptions(threads=2, sparse=True))
    dense = results(weight, x, False)
    none = [np.zeros(0, np.float32)]

    def run(*tokens: int) -> Array:
        (rows,) = executable.run(Batch(np.array(tokens, np.int32), [len(tokens)], none, np.zeros(0, np.int32)))
        return rows

    np.testing.assert_array_equal(run(4), dense[4:])  # all keys
    np.testing.assert_allclose(run(1, 2, 3), dense[1:4], rtol=1e-5, atol=1e-5 * np.abs(dense).max())  # several rows
    assert copies(executable) == [0]
    np.testing.assert_allclose(run(1), dense[1:2], rtol=1e-5, atol=1e-6 * np.abs(dense[1]).max())
    tiles = -(-700 // sparse_op.tile_width(chosen(), 700, "q4_0", 2))
    assert copies(executable) == [tiles]
    np.testing.assert_array_equal(run(3), dense[3:4])
    executable.close()


def test_the_choice_follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from rwkv_edge_cpu.run import sparse_op

    plan = plan_of(matrix("q8_0", 256, 256), vectors(256))
    for available, wanted, expected in ((1 << 40, None, 1), (100_000, None, 0), (100_000, True, 1), (1 << 40, False, 0)):
        monkeypatch.setattr(sparse_op, "available_memory", lambda available=available: available)
        executable: Any = cpu.compile(plan, CompileOptions(threads=1, sparse=wanted))
        assert len(copies(executable)) == expected
        executable.close()


def test_matrices_that_cannot_go_by_key_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones((100, 40), np.float32)
    for data in (values, np.asfortranarray(np.ones((32, 64), np.float32))):
        x = vectors(data.shape[1])
        executable: Any = cpu.compile(plan_of(Tensor("w", data.shape, "f32", data), x), CompileOptions(threads=1, sparse=True))
        assert copies(executable) == []
        executable.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_of_every_version(version: str, tiny_pth: Callable[[str], Path]) -> None:
    tokens = np.random.default_rng(0).integers(1, 60, 12).tolist()
    logits = []
    for sparse in (False, True):
        with Model(tiny_pth(version), "cpu", threads=2, sparse=sparse) as model:
            assert len(copies(model._executable)) == sparse * model.shape.n_layer
            state = None
            for token in tokens:
                y, state = model.forward([token], state)
                logits.append(y)
            assert all(copies(model._executable))
    half = len(tokens)
    np.testing.assert_allclose(np.stack(logits[half:]), np.stack(logits[:half]), rtol=0, atol=2e-5)


def test_what_was_copied_is_given_back_to_the_file(tiny_pth: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[Array] = []
    monkeypatch.setattr("rwkv_edge_cpu.run.sparse_op.release", given_back.append)
    with Model(tiny_pth("7"), "cpu", threads=2, sparse=True) as model:
        state = None
        for step in range(model.shape.n_layer + 1):
            _, state = model.forward([1 + step], state)
        values = [op.weight.data for op in model.plan.ops if getattr(op, "weight", None) is not None
                  and getattr(op.weight, "name", "").endswith("ffn.value.weight")]  # fmt: skip
        assert [id(data) for data in given_back] == [id(data) for data in values]
