"""Every op on every installed backend computes what its definition does in float64: any shape, weight format, way of cutting a
run. Ops that a backend says it does not take are left out."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge import registry
from rwkv_edge.backend import Backend, Batch, CompileOptions, HoldsStates
from rwkv_edge.plan import ACTIVATIONS, Buffer, Plan, PlanBuilder
from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor
from tests.conftest import INSTALLED, need_backend

VOCABULARY = 13
WIDTHS = (1, 3, 17, 64, 300)
HEADS = ((1, 1), (3, 5), (2, 8), (1, 64), (2, 17), (1, 128))  # heads, channels of each
SEGMENTS: tuple[Sequence[int], ...] = ((1,), (1, 1, 1), (9,), (1, 3, 2))

Array = NDArray[Any]
Build = Callable[[PlanBuilder], Buffer]


@pytest.fixture(params=[name for name, traits in INSTALLED.items() if not traits.definition])
def backend(request: pytest.FixtureRequest) -> Backend:
    need_backend(request.param)
    return registry.load(request.param)


def stored(values: Array, format: str) -> Tensor:
    """A matrix in a plain format, rounded to it by truncation where needed."""
    bits = values.astype(np.float32).view(np.uint32) >> 16
    data = {"f32": values.astype(np.float32), "f16": values.astype(np.float16), "bf16": bits.astype(np.uint16)}[format]
    return Tensor("w", values.shape, format, data)


def blocks(format: str, n_out: int, width: int, seed: int = 0) -> Tensor:
    """All bytes random but for scales of about 0.01; one byte further than any alignment."""
    rng = np.random.default_rng(seed)
    size = FORMATS[format]
    raw = rng.integers(0, 256, (n_out * width // size.block_size, size.block_bytes), np.uint8)
    fields = raw.view(LAYOUTS[format])[:, 0]
    for name in {"d", "dmin", "m"} & set(fields.dtype.names or ()):
        fields[name] = rng.uniform(-0.01, 0.01, len(fields))
    data = np.frombuffer(b"\0" + raw.tobytes(), np.uint8)[1:].reshape(n_out, -1)
    return Tensor("w", (n_out, width), format, data)


class Inputs:
    """Buffers with random rows that differ from token to token: embeddings."""

    def __init__(self, p: PlanBuilder, seed: int, width: int) -> None:
        self.p, self.rng, self.width = p, np.random.default_rng(seed), width

    def __call__(self, low: float = -2, high: float = 2) -> Buffer:
        return self.p.embed(stored(self.rng.uniform(low, high, (VOCABULARY, self.width)), "f32"))

    def whole(self) -> Buffer:
        """Rows that lose nothing where they are rounded to bytes, with a scale for every eight: the largest of eight is 127."""
        numbers = self.rng.integers(-127, 128, (VOCABULARY, self.width))
        numbers[:, ::8] = 127
        return self.p.embed(stored(numbers.astype(np.float32), "f32"))

    def vector(self, low: float = -2, high: float = 2) -> Array:
        return self.rng.uniform(low, high, self.width).astype(np.float32)


def run(
    backend: Backend, plan: Plan, lengths: Sequence[int], outputs: Sequence[int], precision: str | None = None
) -> list[Array]:
    """Two runs with the same states: results of both, and the states after."""
    rng = np.random.default_rng(1)
    executable = backend.compile(plan, CompileOptions(precision))
    states = [rng.standard_normal(plan.state_size).astype(executable.state_dtype) for _ in lengths]
    results = []
    for _ in range(2):
        tokens = rng.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
        results += executable.run(Batch(tokens, lengths, states, np.array(outputs, np.int32)))
    if isinstance(executable, HoldsStates):
        for state in states:
            executable.fetch(state)
    executable.close()
    return [*results, *states]


def assert_same(backend: Backend, build: Build, lengths: Sequence[int], outputs: Sequence[int] = ()) -> None:
    builder = PlanBuilder()
    plan = builder.finish(build(builder))
    if refused := [type(op).__name__ for op in plan.ops if not backend.supports(op)]:
        pytest.skip(f"{backend.name} takes no {refused[0]} of this kind")
    actual = run(backend, plan, lengths, outputs)
    expected = run(registry.definition(), plan, lengths, outputs, "fp64")
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max(initial=1e-30))


ROW_OPS: dict[str, Callable[[PlanBuilder, Inputs], Buffer]] = {
    "layer_norm": lambda p, x: p.layer_norm(x(), x.vector(), x.vector(), 1e-5),
    "norm of norm": lambda p, x: p.layer_norm(p.layer_norm(x(), x.vector(), x.vector(), 1e-5), x.vector(), x.vector(), 1e-3),
    "add": lambda p, x: p.add(x(), x()),
    "add vector": lambda p, x: p.add(x(), x.vector()),
    "multiply": lambda p, x: p.multiply(x(), x()),
    "multiply vector": lambda p, x: p.multiply(x(), x.vector()),
    "square": lambda p, x: (lambda y: p.multiply(y, y))(x()),
    "lerp": lambda p, x: p.lerp(x(), x(), x()),
    "lerp vector": lambda p, x: p.lerp(x(), x(), x.vector()),
    "scale": lambda p, x: p.scale(x(), -0.3),
}


@pytest.mark.parametrize("kind", ROW_OPS)
def test_row_ops(backend: Backend, kind: str) -> None:
    for seed, width in enumerate(WIDTHS):
        build = ROW_OPS[kind]
        assert_same(backend, lambda p, s=seed, w=width: build(p, Inputs(p, s, w)), SEGMENTS[seed % 4])  # noqa: B023


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(backend: Backend, kind: Any) -> None:
    assert_same(backend, lambda p: p.activation(Inputs(p, 1, 100)(-30, 30), kind), (5,))
    assert_same(backend, lambda p: p.activation(Inputs(p, 2, 10)(-200, 200), kind), (1,))


HEAD_OPS: dict[str, Callable[[PlanBuilder, Inputs, int], Buffer]] = {
    "group_norm": lambda p, x, n: p.group_norm(x(), x.vector(), x.vector(), n, 1e-3),
    "l2_normalize": lambda p, x, n: p.l2_normalize(x(), n, 1e-12),
    "head_bonus": lambda p, x, n: p.head_bonus(x(), x(), x(), x.vector(), n),
    "wkv6": lambda p, x, n: p.wkv6(x(), x(), x(), x(0, 1), x.vector(), n, p.slot("s", n, x.width // n, x.width // n)),
    "wkv5": lambda p, x, n: p.wkv6(x(), x(), x(), x.vector(0, 1), x.vector(), n, p.slot("s", n, x.width // n, x.width // n)),
    "wkv7": lambda p, x, n: p.wkv7(
        x(), x(0.5, 1), x(), x(), p.l2_normalize(x(), n, 1e-12), x(0, 1), n, p.slot("s", n, x.width // n, x.width // n)
    ),
}


@pytest.mark.parametrize("kind", HEAD_OPS)
def test_head_ops(backend: Backend, kind: str) -> None:
    for seed, (n_head, size) in enumerate(HEADS):
        build, width = HEAD_OPS[kind], n_head * size
        assert_same(backend, lambda p, s=seed, w=width, n=n_head: build(p, Inputs(p, s, w), n), SEGMENTS[seed % 4])  # noqa: B023


@pytest.mark.parametrize("width", [1, 17, 130])
def test_wkv4(backend: Backend, width: int) -> None:
    def build(p: PlanBuilder) -> Buffer:
        p.slot("before", 5)
        x = Inputs(p, width, width)
        return p.wkv4(x(), x(), x.vector(-2, -0.1), x.vector(), p.slot("s", 3, width))

    for lengths in SEGMENTS:
        assert_same(backend, build, lengths)


@pytest.mark.parametrize("inside", [False, True])
def test_token_shift(backend: Backend, inside: bool) -> None:
    """Of a buffer from elsewhere, and of one that the same kernel would compute."""

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 3, 70)
        y = p.layer_norm(x(), x.vector(), x.vector(), 1e-5) if inside else x()
        p.slot("before", 3)
        return p.add(p.token_shift(y, p.slot("s", 70)), p.scale(p.token_shift(y, p.slot("t", 70)), 2.0))

    for lengths in SEGMENTS:
        assert_same(backend, build, lengths)


def test_a_shift_of_a_shift(backend: Backend) -> None:
    def build(p: PlanBuilder) -> Buffer:
        return p.token_shift(p.token_shift(Inputs(p, 3, 20)(), p.slot("s", 20)), p.slot("t", 20))

    for lengths in SEGMENTS:
        assert_same(backend, build, lengths)


@pytest.mark.parametrize("format", FORMATS)
def test_products(backend: Backend, format: str) -> None:
    """Few tokens and tiles of many; rows that fill no group, tile or unit; what follows a product. Rows that meet
    blocks may be rounded to bytes."""
    if FORMATS[format].is_float:
        widths, weight = (1, 45, 264), lambda n_out, width: stored(
            np.random.default_rng(width).standard_normal((n_out, width)), format
        )
    else:
        step = FORMATS[format].block_size
        widths, weight = (step, 3 * step), lambda n_out, width: blocks(format, n_out, width, n_out)
    for width in widths:
        def build(p: PlanBuilder, width: int = width) -> Buffer:
            x = Inputs(p, 5, width)
            if FORMATS[format].is_float:
                left, right = p.matmul(x(), weight(70, width)), p.matmul(x(), weight(70, width))
            else:
                left, right = p.matmul(x.whole(), weight(70, width)), p.matmul(x.whole(), weight(70, width))
                left = p.scale(left, 1 / 1000)
            return p.multiply(p.add(p.activation(left, "tanh"), np.ones(70, np.float32)), right)

        for lengths in ((1,), (2, 1), (37,)):
            assert_same(backend, build, lengths)


@pytest.mark.parametrize("tokens", [2, 4, 5, 8, 9, 33, 64])
def test_products_of_so_many_tokens(backend: Backend, tokens: int) -> None:
    weight = stored(np.random.default_rng(0).standard_normal((9, 40)), "f16")
    assert_same(backend, lambda p: p.matmul(Inputs(p, 5, 40)(), weight), (tokens,))


def test_transposed_weights(backend: Backend) -> None:
    weight = stored(np.random.default_rng(0).standard_normal((24, 70)), "bf16").transpose()
    assert_same(backend, lambda p: p.matmul(Inputs(p, 5, 24)(), weight), (3,))


@pytest.mark.parametrize("outputs", [(), (0,), (2, 5), (5, 5)])
def test_chosen_outputs(backend: Backend, outputs: Sequence[int]) -> None:
    weight = stored(np.random.default_rng(0).standard_normal((7, 24)), "f32")

    def build(p: PlanBuilder) -> Buffer:
        x = Inputs(p, 4, 24)
        y = p.layer_norm(p.select_outputs(p.add(x(), x())), x.vector(), x.vector(), 1e-5)
        return p.matmul(y, weight)

    assert_same(backend, build, (1, 3, 2), outputs)


@pytest.mark.parametrize("format", FORMATS)
def test_embedding_rows_are_exact(backend: Backend, format: str) -> None:
    values = np.random.default_rng(0).standard_normal((6, 256))
    weight = stored(values, format) if FORMATS[format].is_float else blocks(format, 6, 256)
    builder = PlanBuilder()
    executable = backend.compile(builder.finish(builder.embed(weight)))
    tokens = np.array([5, 0, 3], np.int32)
    (result,) = executable.run(Batch(tokens, [3], [np.zeros(0, np.float32)], np.zeros(0, np.int32)))
    executable.close()
    np.testing.assert_array_equal(result, weight.decode()[tokens])
