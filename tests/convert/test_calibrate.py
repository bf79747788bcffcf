"""What calibration finds is what the matrices read, and encoders err less where it says so."""
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge import InputError, TokenizerError, auto, quantize, registry
from rwkv_edge.arch import build_plan
from rwkv_edge.backend import Backend, Batch
from rwkv_edge.cli import main
from rwkv_edge.convert import calibrate
from rwkv_edge.convert.mix import MATRIX, MIXES
from rwkv_edge.plan import MatMul, Plan, SelectOutputs
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.state import State
from rwkv_edge.weights import open_weights
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import DEVICE_BACKENDS

TOKENS = np.random.default_rng(0).integers(1, 97, 50).tolist()
TEXT = b"The quick brown fox jumps over the lazy dog.\n" * 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_pth(tmp_path / "bytes.pth", tiny("7", n_vocab=256, n_embd=256, n_ffn=256, n_layer=1, head_size=64), dtype="bf16")
    (tmp_path / "text.txt").write_bytes(TEXT)
    return tmp_path / "bytes.pth"


def on(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "best", lambda: backend)


def inputs_of(plan: Plan, op: MatMul, tokens: list[int]) -> np.ndarray:
    """[tokens, width]: by a plan that ends there."""
    ops = plan.ops[: plan.ops.index(op)]
    out = replace(plan.logits, width=op.x.width)
    if not op.x.per_output:
        ops += (SelectOutputs(out, op.x),)
    stump = replace(plan, ops=ops, results=(op.x if op.x.per_output else out,))
    state = State.initial(plan.slots, np.float32, "").array
    rows = np.arange(len(tokens), dtype=np.int32)
    (found,) = registry.load("numpy").compile(stump).run(Batch(np.array(tokens, np.int32), [len(tokens)], [state], rows))
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_are_root_mean_squares_of_what_each_matrix_reads(
    version: str, tiny_pth: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(registry.load("numpy"), monkeypatch)
    monkeypatch.setattr(calibrate, "PROBED_PER_RUN", 16)  # several runs: the state carries on
    weights = open_weights(tiny_pth(version))
    seen: list[tuple[int, int]] = []
    sizes = calibrate.activation_sizes(weights, TOKENS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 51), (32, 51), (48, 51), (51, 51)]
    plan = build_plan(weights)
    products = [op for op in plan.ops if isinstance(op, MatMul) and MATRIX.fullmatch(op.weight.name)]
    assert sizes.keys() == {op.weight.name for op in products}
    for op in products:
        expected = np.sqrt(np.square(inputs_of(plan, op, [0, *TOKENS]), dtype=np.float64).mean(axis=0))
        np.testing.assert_allclose(sizes[op.weight.name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("backend_name", "version"),
    [("numpy", "7"), *(("cpu", version) for version in ("4", "6", "7")), *((name, "7") for name in DEVICE_BACKENDS)],
    indirect=["backend_name"],
)
def test_backends_agree(
    backend_name: str, version: str, tiny_pth: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for backend in (backend_name, "numpy"):
        on(registry.load(backend), monkeypatch)
        found.append(calibrate.activation_sizes(open_weights(tiny_pth(version)), TOKENS))
    for name, sizes in found[1].items():
        np.testing.assert_allclose(found[0][name], sizes, rtol=1e-3, atol=1e-5)


@settings(max_examples=25)
@given(st.sampled_from(sorted(SCHEMES)), st.integers(0, 1000), st.integers(1, 2))
def test_importance_lowers_the_error_that_it_weights(format: str, seed: int, blocks: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((16, 256 * blocks)).astype(np.float32)
    columns = rng.exponential(size=x.shape[1]).astype(np.float32) ** 2
    encode = auto.encoder()

    def error(importance: np.ndarray | None) -> float:
        return float(((decode_blocks(encode(format, x, importance), format) - x) ** 2 * columns).sum())

    assert error(columns) < error(None)


def weighted_error(source: Path, made: Path, sizes: dict[str, np.ndarray]) -> float:
    before, after = open_weights(source).tensors, open_weights(made).tensors
    misses = {name: after[name].decode() - before[name].decode() for name in sizes}
    return sum(float((miss**2 * sizes[name]).sum() / (sizes[name].mean())) for name, miss in misses.items())


@pytest.mark.parametrize("type", ["q4", "iq3_s"])
def test_the_command_makes_a_file_that_errs_less_where_it_matters(type: str, model: Path, tmp_path: Path) -> None:
    plain, fitted = tmp_path / "plain.gguf", tmp_path / "fitted.gguf"
    quantize(model, plain, type)
    assert main(["quantize", str(model), str(fitted), "--type", type, "--calibrate", str(tmp_path / "text.txt")]) == 0
    assert fitted.stat().st_size - plain.stat().st_size in range(-64, 65)  # general.name is the source's: the same size
    sizes = dict(calibrate.activation_sizes(open_weights(model), list(TEXT)))
    assert weighted_error(model, fitted, sizes) < 0.99 * weighted_error(model, plain, sizes)


def test_a_text_that_will_not_do_is_one_sentence(
    model: Path, tmp_path: Path, tiny_pth: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_bytes(TEXT[:100])
    out, text = str(tmp_path / "out.gguf"), str(tmp_path / "text.txt")
    for arguments, message in [
        ([str(model), out, "--calibrate", str(tmp_path / "short.txt")], "short.txt: has 100 tokens, too few to calibrate"),
        ([str(model), out, "--calibrate", "/no/such.txt"], "/no/such.txt: cannot be read"),
        ([str(model), out, "--calibrate", text, "--type", "q8_0"], "q8_0 is the same with and without calibration"),
        ([str(tiny_pth("7")), out, "--calibrate", text, "--type", "q4_0"], "no vocabulary is known for a model with 97 tokens"),
    ]:
        assert main(["quantize", *arguments]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not Path(out).exists()


def test_what_contradicts_itself_is_refused(model: Path, tiny_pth: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be given too"):
        quantize(model, tmp_path / "out.gguf", calibrate=tmp_path / "text.txt", importance={})
    with pytest.raises(TokenizerError, match=r"no\.txt"):
        quantize(model, tmp_path / "out.gguf", calibrate=tmp_path / "text.txt", tokenizer=tmp_path / "no.txt")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("type", [type for type, mix in MIXES.items() if mix.exceptions])
def test_exceptions_are_about_tensors_that_there_are(type: str, version: str) -> None:
    names = [name for name in tiny(version) if MATRIX.fullmatch(name)]
    for pattern, _ in MIXES[type].exceptions:
        assert any(re.fullmatch(pattern, name) for name in names), pattern
