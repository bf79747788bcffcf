"""Products with weights in blocks: every format and instruction set, against NumPy, within what rounding activations costs."""
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_cpu import backend as cpu
from rwkv_edge_cpu.code.target import OVERRIDE, available, chosen
from rwkv_edge_cpu.shape.layout import PANELS, TILE_TOKENS, TILE_WIDTH

from rwkv_edge.backend import Batch, CompileOptions
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import PlanBuilder
from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

pytestmark = [
    pytest.mark.skipif(not cpu.availability().available, reason=cpu.availability().reason),
    pytest.mark.usefixtures("instruction_set"),
]

BLOCK_FORMATS = [name for name, format in FORMATS.items() if not format.is_float]
RUN = 32

Array = NDArray[Any]


def instruction_sets() -> list[str]:
    """Those that this machine can run."""
    return list(available()) if cpu.availability().available else []


@pytest.fixture(params=instruction_sets())
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What all that is compiled in the test is made for."""
    monkeypatch.setenv(OVERRIDE, request.param)
    return str(request.param)


def random_blocks(format: str, n_out: int, width: int, seed: int = 0, codes: int | None = None) -> Tensor:
    """All bytes random, or all `codes`; scales of about 0.01; one byte further than any alignment."""
    rng = np.random.default_rng(seed)
    size = FORMATS[format]
    shape = n_out * width // size.block_size, size.block_bytes
    raw = rng.integers(0, 256, shape, np.uint8) if codes is None else np.full(shape, codes, np.uint8)
    fields = raw.view(LAYOUTS[format])[:, 0]
    for name in {"d", "dmin", "m"} & set(fields.dtype.names or ()):
        fields[name] = rng.uniform(-0.01, 0.01, len(fields))
    data = np.frombuffer(b"\0" + raw.tobytes(), np.uint8)[1:].reshape(n_out, -1)
    return Tensor("w", (n_out, width), format, data)


def product(weight: Tensor, x: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """x @ weight.T by the CPU backend, all rows of x in one run."""
    builder = PlanBuilder()
    plan = builder.finish(builder.matmul(builder.embed(Tensor("x", x.shape, "f32", x)), weight))
    executable = cpu.compile(plan, CompileOptions(threads=threads))
    no_state, tokens = np.zeros(0, np.float32), np.arange(len(x), dtype=np.int32)
    (result,) = executable.run(Batch(tokens, [len(x)], [no_state], np.zeros(0, np.int32)))
    executable.close()
    return result


def assert_within_rounding(weight: Tensor, x: NDArray[np.float32], threads: int = 1) -> None:
    """Half a step of each run's activations times the weights it meets, and the rounding of float32 sums."""
    w = weight.decode().astype(np.float64)
    exact = x.astype(np.float64) @ w.T
    steps = np.abs(x.astype(np.float64)).reshape(len(x), -1, RUN).max(axis=2) / 127
    sizes = np.abs(w).reshape(len(w), -1, RUN).sum(axis=2)
    # Codes are counted from zero only after the product, so sums may be larger than the result: by offsets, at most.
    rounding = 2e-6 * (np.abs(x) @ (np.abs(w) + np.abs(w).max()).T)
    error = np.abs(product(weight, x, threads) - exact)
    assert (error <= 0.5001 * steps @ sizes.T + rounding).all()


def activations(n: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("n_tokens", [1, 2, 3, 4, 7, 8, 13, 17])
def test_products(format: str, blocks: int, n_tokens: int) -> None:
    width = blocks * FORMATS[format].block_size
    n_out = (1, 2, 16, 37)[(blocks + n_tokens) % 4]
    assert_within_rounding(random_blocks(format, n_out, width, n_tokens), activations(n_tokens, width), 1 + n_tokens % 3)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_each_weight_alone(format: str) -> None:
    """One number in a row of activations: rounding costs nothing, and what a code stands for is seen by itself."""
    weight = random_blocks(format, 128, 256)
    builder = PlanBuilder()
    plan = builder.finish(builder.matmul(builder.embed(Tensor("x", (256, 256), "f32", np.eye(256, dtype=np.float32))), weight))
    executable, no_state = cpu.compile(plan, CompileOptions(threads=1)), np.zeros(0, np.float32)
    last = np.zeros(0, np.int32)
    columns = [executable.run(Batch(np.array([i], np.int32), [1], [no_state], last))[0][0] for i in range(256)]
    executable.close()
    expected = weight.decode()
    np.testing.assert_allclose(np.transpose(columns), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("n_tokens", [1, 14, 37])
def test_rows_longer_than_a_tile(format: str, n_tokens: int) -> None:
    assert_within_rounding(random_blocks(format, 150, 2304), activations(n_tokens, 2304), 3)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("n_tokens", [6, 8, 11])
def test_rows_longer_than_a_band(format: str, n_tokens: int) -> None:
    """In two parts, of which the second is added to the first; and rows that do not fill a band."""
    assert_within_rounding(random_blocks(format, 53, 4608), activations(n_tokens, 4608), 2)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("n_tokens", [PANELS - 1, PANELS, TILE_TOKENS + 5])
def test_many_tokens(format: str, n_tokens: int) -> None:
    """In panels or not, and more than meet an unpacked tile; the last panel is narrower."""
    width = TILE_WIDTH + FORMATS[format].block_size
    assert_within_rounding(random_blocks(format, 33, width), activations(n_tokens, width), threads=2)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_panels_are_for_tiles_alone(format: str) -> None:
    from rwkv_edge_cpu.kernels.quantized import few_rows

    assert few_rows(chosen(), format)[1] < PANELS


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("codes", [0, 127, 128, 255])
@pytest.mark.parametrize("n_tokens", [1, 3, 13, 33])
def test_extreme_codes_and_activations(format: str, codes: int, n_tokens: int) -> None:
    """The integer products are as large as can be: nothing saturates or overflows."""
    x = np.full((n_tokens, 512), -3.0, np.float32)
    x[-1] = 3.0
    assert_within_rounding(random_blocks(format, 17, 512, codes=codes), x)
    x[:, 100] = 1e4
    assert_within_rounding(random_blocks(format, 17, 512, codes=codes), x)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("n_tokens", [1, 3, 32])
def test_zeros_and_tiny_activations(format: str, n_tokens: int) -> None:
    x = np.zeros((n_tokens, 512), np.float32)
    weight = random_blocks(format, 5, 512)
    np.testing.assert_array_equal(product(weight, x), 0)
    x[:, ::7] = 1e-38
    assert np.abs(product(weight, x)).max() < 1e-33


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("n_tokens", [1, 3, 8, 32])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_the_result(format: str, n_tokens: int, value: float) -> None:
    weight = random_blocks(format, 21, 512)
    x = activations(n_tokens, 512)
    clean = product(weight, x)
    bad = x.copy()
    bad[-1, 300] = value
    result = product(weight, bad)
    assert not np.isfinite(result[-1]).any()
    np.testing.assert_array_equal(result[:-1], clean[:-1])
    data = weight.data.copy()
    data[2].view(LAYOUTS[format])["d"][-1] = value
    result = product(Tensor("w", weight.shape, format, data), x)
    assert not np.isfinite(result[:, 2]).any()
    np.testing.assert_array_equal(np.delete(result, 2, axis=1), np.delete(clean, 2, axis=1))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_a_token_does_not_depend_on_its_batch(format: str) -> None:
    weight, x = random_blocks(format, 37, 1280), activations(20, 1280)
    together = product(weight, x)
    alone = np.concatenate([product(weight, x[i : i + 1]) for i in (0, 11, 12, 19)])
    np.testing.assert_allclose(alone, together[[0, 11, 12, 19]], rtol=1e-5, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_embedding_rows_are_exact(format: str) -> None:
    weight = random_blocks(format, 6, 512)
    builder = PlanBuilder()
    executable = cpu.compile(builder.finish(builder.embed(weight)), CompileOptions(threads=2))
    tokens = np.array([5, 0, 3], np.int32)
    (result,) = executable.run(Batch(tokens, [3], [np.zeros(0, np.float32)], np.zeros(0, np.int32)))
    np.testing.assert_allclose(result, weight.decode()[tokens], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("format", sorted(FLOAT_STORAGE))
@pytest.mark.parametrize("width", [1, 17, 64, 96, 300, 1100])
@pytest.mark.parametrize("n_out", [1, 3, 4, 37])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_token_and_plain_floats(format: str, width: int, n_out: int, transposed: bool) -> None:
    """Rows shorter and longer than what is multiplied several at a time, and what is left behind whole vectors and rows."""
    values = np.random.default_rng(width).standard_normal((n_out, width)).astype(np.float32)
    data = values.view(np.uint16)[:, 1::2] if format == "bf16" else values.astype(FLOAT_STORAGE[format])
    data = np.ascontiguousarray(data.T).T if transposed else np.ascontiguousarray(data)
    weight, x = Tensor("w", data.shape, format, data), activations(1, width)
    exact = x.astype(np.float64) @ weight.decode().astype(np.float64).T
    np.testing.assert_allclose(product(weight, x, 1 + n_out % 2), exact, rtol=0, atol=1e-6 * width)


def test_every_format_is_supported() -> None:
    for format in BLOCK_FORMATS:
        builder = PlanBuilder()
        x = builder.embed(random_blocks(format, 4, 256))
        builder.matmul(x, random_blocks(format, 4, 256))
        assert all(map(cpu.supports, builder.ops))


def test_products_for_several_instruction_sets_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_blocks("q8_0", 37, 512), activations(5, 512)
    builder = PlanBuilder()
    plan = builder.finish(builder.matmul(builder.embed(Tensor("x", x.shape, "f32", x)), weight))
    executables = []
    for name in instruction_sets():
        monkeypatch.setenv(OVERRIDE, name)
        executables.append(cpu.compile(plan, CompileOptions(threads=2)))
    exact = x.astype(np.float64) @ weight.decode().astype(np.float64).T
    batch = Batch(np.arange(5, dtype=np.int32), [5], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
    for executable in executables * 2:
        (found,) = executable.run(batch)
        np.testing.assert_allclose(found, exact, rtol=0, atol=0.02 * np.abs(exact).max())
    for executable in executables:
        executable.close()


def test_the_best_is_chosen_unless_another_is_named(instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen().isa.name == instruction_set
    monkeypatch.delenv(OVERRIDE)
    assert chosen().isa.name == instruction_sets()[0]


@pytest.mark.parametrize("name", ["sse9", "neon", "avx2"])
def test_an_instruction_set_that_cannot_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in available():
        pytest.skip("this machine can")
    monkeypatch.setenv(OVERRIDE, name)
    with pytest.raises(BackendError, match=f"{OVERRIDE}={name}"):
        chosen()
