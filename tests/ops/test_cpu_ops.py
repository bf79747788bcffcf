"""Every op of the CPU backend computes what the NumPy backend does in float64: any shape, format, layout, thread count."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_cpu import backend as cpu
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge.backend import Batch, CompileOptions
from rwkv_edge.errors import BackendError, InputError
from rwkv_edge.plan import ACTIVATIONS, Buffer, Plan, PlanBuilder
from rwkv_edge.quant.encode import encode
from rwkv_edge.weights.tensor import Tensor

pytestmark = pytest.mark.skipif(not cpu.availability().available, reason=cpu.availability().reason)

VOCABULARY = 13
WIDTHS = (1, 3, 17, 63, 100)
HEADS = ((1, 1), (3, 5), (2, 8), (1, 64), (2, 17))  # heads, channels of each
SEGMENTS = ((1,), (4,), (9,), (1, 3, 2), (2, 1, 1, 5))
THREADS = (1, 2, 3, 5)
FLOATS = ("f32", "f16", "bf16")

Array = NDArray[Any]
Build = Callable[[PlanBuilder], Buffer]


def f32(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def stored(values: Array, format: str) -> Tensor:
    """A matrix in a plain format, rounded to it by truncation where needed."""
    data = {
        "f32": lambda: values.astype(np.float32),
        "f16": lambda: values.astype(np.float16),
        "bf16": lambda: (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
    }[format]()
    return Tensor("w", values.shape, format, data)


def q8_0(values: NDArray[np.float32]) -> Tensor:
    return Tensor("w", values.shape, "q8_0", encode("q8_0", values))


def unaligned(tensor: Tensor) -> Tensor:
    """The same weights one byte further than any alignment."""
    raw = np.frombuffer(b"\0" + tensor.data.tobytes(), np.uint8)[1:]
    return Tensor("w", tensor.shape, tensor.format, raw.view(tensor.data.dtype).reshape(tensor.data.shape))


class Inputs:
    """Buffers with random rows that differ from token to token: embeddings."""

    def __init__(self, p: PlanBuilder, seed: int, width: int) -> None:
        self.p, self.rng, self.width = p, np.random.default_rng(seed), width

    def __call__(self, low: float | None = None, high: float | None = None) -> Buffer:
        values = f32(self.rng, VOCABULARY, self.width)
        if low is not None and high is not None:
            values = self.rng.uniform(low, high, values.shape).astype(np.float32)
        return self.p.embed(stored(values, "f32"))

    def vector(self) -> NDArray[np.float32]:
        return f32(self.rng, self.width)


def run(
    backend: Any, plan: Plan, lengths: Sequence[int], outputs: Sequence[int], options: CompileOptions
) -> tuple[Array, list[Array]]:
    """Two runs with the same states: (results of both, states after)."""
    rng = np.random.default_rng(1)
    executable = backend.compile(plan, options)
    states = [rng.standard_normal(plan.state_size).astype(np.float32).astype(executable.state_dtype) for _ in lengths]
    results = []
    for _ in range(2):
        tokens = rng.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
        results += executable.run(Batch(tokens, lengths, states, np.array(outputs, np.int32)))
    executable.close()
    return np.concatenate(results), states


def assert_close(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * finite.max(initial=1e-30))


def assert_same(build: Build, lengths: Sequence[int] = (1, 3, 2), threads: int = 2, outputs: Sequence[int] = ()) -> None:
    builder = PlanBuilder()
    plan = builder.finish(build(builder))
    result, states = run(cpu, plan, lengths, outputs, CompileOptions(threads=threads))
    expected, expected_states = run(numpy_backend, plan, lengths, outputs, CompileOptions(precision="fp64"))
    assert result.dtype == np.float32
    assert_close(result, expected)
    for state, other in zip(states, expected_states, strict=True):
        assert_close(state, other)


@pytest.fixture(params=range(12))
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def shape(seed: int) -> tuple[int, Sequence[int], int]:
    """(width, tokens of the segments, threads), drawn so that all values occur and pairs differ."""
    return WIDTHS[seed % 5], SEGMENTS[seed * 3 % 5], THREADS[seed % 4]


@pytest.fixture
def heads(seed: int) -> tuple[int, int, Sequence[int], int]:
    n_head, size = HEADS[seed % 5]
    return n_head, n_head * size, SEGMENTS[seed * 2 % 5], THREADS[seed % 4]


@pytest.mark.parametrize(
    "kind", ["layer_norm", "add", "add vector", "multiply", "multiply vector", "lerp", "lerp vector", "scale"]
)
def test_row_ops(kind: str, seed: int, shape: tuple[int, Sequence[int], int]) -> None:
    width, lengths, threads = shape

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        match kind.split():
            case ["layer_norm"]:
                return p.layer_norm(x(), x.vector(), x.vector(), 1e-5)
            case ["scale"]:
                return p.scale(x(), 0.3)
            case ["lerp", *vector]:
                return p.lerp(x(), x(), x.vector() if vector else x())
            case [name, *vector]:
                a, b = x(), x.vector() if vector else x()
                return p.add(a, b) if name == "add" else p.multiply(a, b)
        raise AssertionError(kind)

    assert_same(build, lengths, threads)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: Any, seed: int, shape: tuple[int, Sequence[int], int]) -> None:
    width, lengths, threads = shape
    assert_same(lambda p: p.activation(Inputs(p, seed, width)(-9, 9), kind), lengths, threads)


@pytest.mark.parametrize("kind", ["group_norm", "l2_normalize", "head_bonus"])
def test_head_ops(kind: str, seed: int, heads: tuple[int, int, Sequence[int], int]) -> None:
    n_head, width, lengths, threads = heads

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        if kind == "group_norm":
            return p.group_norm(x(), x.vector(), x.vector(), n_head, 64e-5)
        if kind == "l2_normalize":
            return p.l2_normalize(x(), n_head, 1e-12)
        return p.head_bonus(x(), x(), x(), x.vector(), n_head)

    assert_same(build, lengths, threads)


def test_token_shift_keeps_segments_apart(seed: int, shape: tuple[int, Sequence[int], int]) -> None:
    width, lengths, threads = shape

    def build(p: PlanBuilder) -> Buffer:
        p.slot("before", 5)
        return p.token_shift(Inputs(p, seed, width)(), p.slot("shift", width))

    assert_same(build, lengths, threads)


def test_wkv4(seed: int, shape: tuple[int, Sequence[int], int]) -> None:
    width, lengths, threads = shape

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        p.slot("before", 3)
        return p.wkv4(x(-20, 20), x(), -np.exp(x.vector()), x.vector(), p.slot("wkv", 3, width))

    builder = PlanBuilder()
    plan = builder.finish(build(builder))
    states = [np.zeros(plan.state_size, np.float32) for _ in lengths]
    for state in states:
        state[-width:] = -1e30  # as in a new sequence
    double = [state.astype(np.float64) for state in states]
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
    none = np.zeros(0, np.int32)
    (result,) = cpu.compile(plan, CompileOptions(threads=threads)).run(Batch(tokens, lengths, states, none))
    (expected,) = numpy_backend.compile(plan, CompileOptions(precision="fp64")).run(Batch(tokens, lengths, double, none))
    assert_close(result, expected)
    for state, other in zip(states, double, strict=True):
        assert_close(state, other)


@pytest.mark.parametrize("decay_is_vector", [True, False])
def test_wkv6(decay_is_vector: bool, seed: int, heads: tuple[int, int, Sequence[int], int]) -> None:
    n_head, width, lengths, threads = heads
    size = width // n_head

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        decay = np.exp(-np.exp(x.vector())) if decay_is_vector else x(0.1, 1)
        return p.wkv6(x(), x(), x(), decay, x.vector(), n_head, p.slot("wkv", n_head, size, size))

    assert_same(build, lengths, threads)


def test_wkv7(seed: int, heads: tuple[int, int, Sequence[int], int]) -> None:
    n_head, width, lengths, threads = heads
    size = width // n_head

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        p.slot("before", 7)
        kk = p.l2_normalize(x(), n_head, 1e-12)
        return p.wkv7(x(), x(0.5, 1), x(), x(), kk, x(0, 1), n_head, p.slot("wkv", n_head, size, size))

    assert_same(build, lengths, threads)


def test_select_outputs(seed: int, shape: tuple[int, Sequence[int], int]) -> None:
    width, lengths, threads = shape
    rows = np.random.default_rng(seed).permutation(sum(lengths))[: seed % 4]

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        y = p.add(p.select_outputs(p.scale(x(), 2.0)), x.vector())
        return p.matmul(y, stored(f32(x.rng, 5, width), "f16"))

    assert_same(build, lengths, threads, sorted(rows))


@pytest.mark.parametrize("layout", ["rows", "transposed", "strided", "reversed", "unaligned"])
@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("n_out", [1, 2, 37])
def test_matmul_of_plain_floats(
    format: str, layout: str, n_out: int, seed: int, shape: tuple[int, Sequence[int], int]
) -> None:
    width, lengths, threads = shape

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, seed, width)
        match layout:
            case "transposed":
                weight = stored(f32(x.rng, width, n_out), format).transpose()
            case "strided":
                big = stored(f32(x.rng, 2 * n_out, 3 * width), format)
                weight = Tensor("w", (n_out, width), format, big.data[::2, ::3])
            case "reversed":
                whole = stored(f32(x.rng, n_out, width), format)
                weight = Tensor("w", (n_out, width), format, whole.data[::-1, ::-1])
            case _:
                weight = stored(f32(x.rng, n_out, width), format)
        return p.matmul(x(), unaligned(weight) if layout == "unaligned" else weight)

    assert_same(build, lengths, threads)


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("lengths", [(1,), (7,)])
def test_matmul_of_rows_longer_than_a_tile(format: str, lengths: Sequence[int]) -> None:
    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 0, 2336)
        values = f32(x.rng, 150, x.width)
        return p.matmul(x(), stored(values, format))

    assert_same(build, lengths, 3)


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("lengths", [(1,), (7,)])
def test_matmul_of_wide_transposed_views(format: str, lengths: Sequence[int]) -> None:
    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 0, 1030)
        return p.matmul(x(), stored(f32(x.rng, x.width, 403), format).transpose())

    assert_same(build, lengths, 3)


@pytest.mark.parametrize("format", [*FLOATS, "q8_0", "transposed"])
def test_embed(format: str) -> None:
    def build(p: PlanBuilder) -> Buffer:
        rng = np.random.default_rng(0)
        if format == "q8_0":
            return p.embed(unaligned(q8_0(f32(rng, VOCABULARY, 96))))
        if format == "transposed":
            return p.embed(stored(f32(rng, 19, VOCABULARY), "f16").transpose())
        return p.embed(unaligned(stored(f32(rng, VOCABULARY, 19), format)))

    assert_same(build, (4, 2))


@pytest.mark.parametrize("format", ["f16", "bf16"])
@pytest.mark.parametrize("layout", ["row", "column", "matrix times one"])
def test_all_65536_half_precision_numbers_are_decoded_exactly(format: str, layout: str) -> None:
    data = np.arange(1 << 16, dtype=np.uint16)
    plain = Tensor("w", data.shape, format, data.view(np.float16) if format == "f16" else data)
    p = PlanBuilder()
    if layout == "row":
        logits = p.embed(plain.reshape(1, 1 << 16))
    elif layout == "column":
        logits = p.embed(plain.reshape(1 << 16, 1).transpose())
    else:
        logits = p.matmul(p.embed(stored(np.ones((1, 1)), "f32")), plain.reshape(1 << 16, 1))
    executable = cpu.compile(p.finish(logits), CompileOptions(threads=1))
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = plain.decode()
    number = ~np.isnan(expected)
    for n in (1, 2):
        batch = Batch(np.zeros(n, np.int32), [n], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
        result = executable.run(batch)[0][n - 1]
        assert np.isnan(result[~number]).all()
        if layout == "matrix times one":  # adding to zero loses the sign of zero, nothing else
            np.testing.assert_array_equal(result[number], expected[number])
        else:
            np.testing.assert_array_equal(result.view(np.uint32)[number], expected.view(np.uint32)[number])


EXTREMES = np.array(
    [0, -0.0, 1e-45, -1e-38, 1e-4, 0.1249, 0.1251, 1, -1, 9, -9, 88, -88, 88.8, 104, -104, 3e38, -3e38, np.inf, -np.inf, np.nan]
)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_extreme_numbers(kind: Any) -> None:
    p = PlanBuilder()
    plan = p.finish(p.activation(p.embed(stored(np.stack([EXTREMES, EXTREMES]), "f32")), kind))
    batch = Batch(np.zeros(1, np.int32), [1], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
    (result,) = cpu.compile(plan, CompileOptions(threads=1)).run(batch)
    (expected,) = numpy_backend.compile(plan, CompileOptions(precision="fp64")).run(batch)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(result, expected.astype(np.float32), rtol=2e-6, atol=2e-43)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_accurate_to_a_few_units_in_the_last_place(kind: Any) -> None:
    values = np.concatenate([np.linspace(-20, 20, 20001), np.geomspace(1e-7, 1, 2000), -np.geomspace(1e-7, 1, 2000)])
    p = PlanBuilder()
    plan = p.finish(p.activation(p.embed(stored(values[None], "f32")), kind))
    batch = Batch(np.zeros(1, np.int32), [1], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
    (result,) = cpu.compile(plan, CompileOptions(threads=1)).run(batch)
    (expected,) = numpy_backend.compile(plan, CompileOptions(precision="fp64")).run(batch)
    # exp(-exp(x)) magnifies the rounding of exp(x) by exp(x).
    normal = expected > 1e-30 if kind == "exp_neg_exp" else np.ones_like(expected, bool)
    np.testing.assert_allclose(result[normal], expected[normal], rtol=1e-5 if kind == "exp_neg_exp" else 5e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lengths", [(1,), (5,)])
def test_nan_and_infinity_in_weights_reach_the_logits(bad: float, lengths: Sequence[int]) -> None:
    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 3, 64)
        weight = f32(x.rng, 37, 64)
        weight[5, 11] = bad
        y = p.matmul(x(1, 2), stored(weight, "f32"))
        z = p.matmul(x(1, 2), stored(weight.T, "bf16").transpose())
        return p.add(y, z)

    assert_same(build, lengths)


@pytest.mark.parametrize("op", ["layer_norm", "l2_normalize", "relu_squared", "wkv7", "wkv4"])
def test_nan_in_activations_spreads_as_in_the_definition(op: str) -> None:
    def build(p: PlanBuilder) -> Buffer:
        rng = np.random.default_rng(0)
        values = f32(rng, VOCABULARY, 20)
        values[4, 7] = np.nan
        x = p.embed(stored(values, "f32"))
        vector = f32(rng, 20)
        match op:
            case "layer_norm":
                return p.layer_norm(x, vector, vector, 1e-5)
            case "l2_normalize":
                return p.l2_normalize(x, 2, 1e-12)
            case "wkv7":
                return p.wkv7(x, x, x, x, x, x, 2, p.slot("wkv", 2, 10, 10))
            case "wkv4":
                return p.wkv4(x, x, -abs(vector), vector, p.slot("wkv", 3, 20))
        return p.activation(x, "relu_squared")

    assert_same(build, (5, 4))


def chain(p: PlanBuilder, rng: np.random.Generator) -> Buffer:
    """Many ops on few buffers, so that memory is reused and barriers matter."""
    x = p.embed(stored(f32(rng, VOCABULARY, 48), "f32"))
    for i in range(6):
        y = p.token_shift(p.layer_norm(x, f32(rng, 48), f32(rng, 48), 1e-5), p.slot(f"{i}", 48))
        a, b = p.lerp(x, y, f32(rng, 48)), p.lerp(y, x, f32(rng, 48))
        k = p.activation(p.matmul(a, stored(f32(rng, 96, 48), "f16")), "tanh")
        v = p.matmul(b, stored(f32(rng, 48, 48), "bf16"))
        v = p.add(v, p.matmul(k, stored(f32(rng, 96, 48), "f32").transpose()))
        x = p.add(x, p.scale(p.multiply(p.activation(v, "sigmoid"), f32(rng, 48)), 0.5))
    return p.matmul(p.select_outputs(x), stored(f32(rng, 37, 48), "f32"))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("lengths", SEGMENTS)
def test_a_longer_plan(threads: int, lengths: Sequence[int]) -> None:
    assert_same(lambda p: chain(p, np.random.default_rng(0)), lengths, threads, range(sum(lengths)))


def test_results_do_not_change_from_run_to_run() -> None:
    p = PlanBuilder()
    plan = p.finish(chain(p, np.random.default_rng(0)))
    first, _ = run(cpu, plan, (3, 6), range(9), CompileOptions(threads=3))
    for _ in range(5):
        again, _ = run(cpu, plan, (3, 6), range(9), CompileOptions(threads=3))
        np.testing.assert_array_equal(again, first)


def test_one_executable_runs_batches_of_any_shape_in_any_order() -> None:
    p = PlanBuilder()
    plan = p.finish(chain(p, np.random.default_rng(0)))
    ours = cpu.compile(plan, CompileOptions(threads=2))
    reference = numpy_backend.compile(plan, CompileOptions(precision="fp64"))
    rng = np.random.default_rng(2)
    for lengths in ((1,), (40,), (2, 3), (1, 1, 1), (1,), (300,), (7,)):
        states = [f32(rng, plan.state_size) for _ in lengths]
        tokens = rng.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
        outputs = np.arange(0, sum(lengths), 3, dtype=np.int32)
        (expected,) = reference.run(Batch(tokens, lengths, [s.astype(np.float64) for s in states], outputs))
        assert_close(ours.run(Batch(tokens, lengths, states, outputs))[0], expected)


def shift_plan() -> Plan:
    p = PlanBuilder()
    return p.finish(p.select_outputs(p.token_shift(p.embed(stored(np.ones((4, 3)), "f32")), p.slot("shift", 3))))


def good_batch(**changes: Any) -> Batch:
    fields: dict[str, Any] = {"tokens": np.array([1, 2], np.int32), "lengths": [2], "states": [np.zeros(3, np.float32)]}
    return Batch(**(fields | {"outputs": np.array([1], np.int32)} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": np.array([1, 4], np.int32)},
        {"tokens": np.array([-1, 2], np.int32)},
        {"tokens": np.zeros(0, np.int32), "lengths": []},
        {"lengths": [1]},
        {"lengths": [2, 0]},
        {"lengths": [1, 1]},
        {"outputs": np.array([2], np.int32)},
        {"outputs": np.array([-1], np.int32)},
        {"states": [np.zeros(4, np.float32)]},
        {"states": [np.zeros(3)]},
        {"states": [np.zeros(6, np.float32)[::2]]},
        {"states": [np.zeros(3, np.float32)] * 2, "lengths": [1, 1]},
    ],
    ids=str,
)
def test_a_batch_that_would_read_elsewhere_is_refused(changes: dict[str, Any]) -> None:
    executable = cpu.compile(shift_plan(), CompileOptions(threads=1))
    with pytest.raises(InputError):
        executable.run(good_batch(**changes))
    executable.run(good_batch())


def test_a_plan_whose_sizes_do_not_fit_is_refused() -> None:
    p = PlanBuilder()
    x = p.embed(stored(np.ones((4, 3)), "f32"))
    with pytest.raises(BackendError):
        cpu.compile(p.finish(p.add(x, np.ones(4))))


def test_only_float32_is_offered() -> None:
    with pytest.raises(BackendError):
        cpu.compile(shift_plan(), CompileOptions(precision="fp64"))


def test_formats_without_a_kernel_are_not_supported_and_refused() -> None:
    p = PlanBuilder()
    plan = p.finish(p.embed(Tensor("w", (4, 32), "q4_2", np.zeros((4, 18), np.uint8))))
    assert not cpu.supports(plan.ops[0])
    with pytest.raises(BackendError):
        cpu.compile(plan)
