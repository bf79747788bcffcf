"""LoRA, PiSSA, Bone and DiSHA files, against merging them into the checkpoint as RWKV-PEFT's scripts do."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import InputError, Model, ModelFileError, StateError
from rwkv_edge.arch.fingerprint import fingerprint
from rwkv_edge.convert.lora import with_lora
from rwkv_edge.weights import Weights, open_weights
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny

PthOf = Callable[[Checkpoint], Path]
MATRICES = ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
ALPHA, RANK = 24.0, 4


def names(n_layer: int = 3) -> list[str]:
    return [f"blocks.{i}.{name}" for i in range(n_layer) for name in MATRICES]


def drawn(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def lora_of(base: Checkpoint, prefix: str = "", kind: str = "lora", seed: int = 0) -> Checkpoint:
    """Factors for every matrix of the layers."""
    out: Checkpoint = {}
    for i, name in enumerate(names(sum(n.endswith("ln1.weight") for n in base))):
        n_out, n_in = base[f"{name}.weight"].shape
        out[f"{prefix}{name}.{kind}_A"] = drawn(seed + 2 * i, RANK, n_in)
        out[f"{prefix}{name}.{kind}_B"] = drawn(seed + 2 * i + 1, n_out, RANK)
    return out


def product(lora: Checkpoint, name: str, kind: str = "lora") -> np.ndarray[Any, np.dtype[np.float64]]:
    return lora[f"{name}.{kind}_B"].astype(np.float64) @ lora[f"{name}.{kind}_A"].astype(np.float64)


def applied(model: Path, file: Path, alpha: float | None = ALPHA, init: Path | None = None) -> Weights:
    return with_lora(open_weights(model), file, alpha, init)


def assert_weights(weights: Weights, expected: Checkpoint, **tolerance: float) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(weights.tensors[name].decode(), array, err_msg=name, **tolerance)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_low_rank_products_are_added_by_alpha_over_rank(version: str, prefix: str, pth_of: PthOf, tmp_path: Path) -> None:
    base = tiny(version)
    lora = lora_of(base)
    file = write_pth(tmp_path / "lora.pth", {prefix + name: array for name, array in lora.items()}, dtype="f32")
    weights = applied(pth_of(base), file)
    expected = {f"{n}.weight": base[f"{n}.weight"] + ALPHA / RANK * product(lora, n) for n in names()}
    assert_weights(weights, expected, rtol=1e-5, atol=1e-6)
    untouched = open_weights(tmp_path / "model.pth")
    assert np.array_equal(weights.tensors["emb.weight"].data, untouched.tensors["emb.weight"].data)
    assert weights.tensors.keys() == untouched.tensors.keys()


def test_a_model_with_its_lora_computes_what_the_merged_checkpoint_does(
    pth_of: PthOf, tmp_path: Path, backend_name: str
) -> None:
    base = tiny("7")
    lora = lora_of(base) | {"blocks.1.ln2.bias": drawn(7, 64), "blocks.0.att.x_k": drawn(8, 1, 1, 64)}
    lora |= {f"blocks.{i}.att.time_state": drawn(20 + i, 4, 16, 16) for i in range(3)}
    whole = base | {name: array for name, array in lora.items() if "lora" not in name}
    for name in names():
        whole[f"{name}.weight"] = (base[f"{name}.weight"] + ALPHA / RANK * product(lora, name)).astype(np.float32)
    merged = write_pth(tmp_path / "merged.pth", whole, dtype="f32")
    file = write_pth(tmp_path / "lora.pth", lora, dtype="f32")
    with Model(merged, backend_name) as a, Model(pth_of(base), backend_name, lora=file, lora_alpha=ALPHA) as b:
        wanted, _ = a.forward([1, 2, 3, 4])
        logits, _ = b.forward([1, 2, 3, 4])
        assert np.allclose(logits, wanted, atol=2e-4)
        with Model(tmp_path / "model.pth", backend_name) as bare:
            assert not np.allclose(bare.forward([1, 2, 3, 4])[0], wanted, atol=0.1)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_floats_stay_what_they_are_and_are_rounded_once(dtype: str, tmp_path: Path) -> None:
    base = tiny("7")
    lora = lora_of(base)
    weights = applied(write_pth(tmp_path / "m.pth", base, dtype=dtype), write_pth(tmp_path / "l.pth", lora, dtype="f32"))
    for name in names():
        tensor = weights.tensors[f"{name}.weight"]
        exact = base[f"{name}.weight"] + ALPHA / RANK * product(lora, name)
        assert tensor.format == dtype
        bits = {"f16": 11, "bf16": 8}[dtype]
        assert (np.abs(tensor.decode() - exact) <= np.abs(exact) * 2.0**-bits * 1.01 + 1e-6).all()


@pytest.mark.parametrize("type", ["q8_0", "f16"])
def test_quantized_matrices_are_encoded_anew(type: str, tmp_path: Path) -> None:
    base = tiny("7", n_vocab=300, n_embd=64)
    lora = lora_of(base)
    model = write_gguf(tmp_path / "m.gguf", base, type=type)
    before = open_weights(model)
    weights = applied(model, write_pth(tmp_path / "l.pth", lora, dtype="f32"))
    for name in names():
        tensor, old = weights.tensors[f"{name}.weight"], before.tensors[f"{name}.weight"]
        assert (tensor.format, tensor.shape, tensor.data.shape) == (type, old.shape, old.data.shape)
        exact = old.decode() + ALPHA / RANK * product(lora, name)
        assert np.abs(tensor.decode() - exact).max() <= np.abs(exact).max() / 127


def test_matrices_that_a_file_keeps_divided_stay_divided(tmp_path: Path) -> None:
    base = tiny("6", n_vocab=300, n_layer=4)
    lora = lora_of(base) | {"blocks.3.ffn.value.weight": drawn(99, *base["blocks.3.ffn.value.weight"].shape)}
    del lora["blocks.3.ffn.value.lora_A"], lora["blocks.3.ffn.value.lora_B"]
    model = write_gguf(tmp_path / "m.gguf", base, rescale_every=2)
    weights = applied(model, write_pth(tmp_path / "l.pth", lora, dtype="f32"))
    assert weights.hints.rescale_every_n_layers == 2
    for layer in range(4):
        name = f"blocks.{layer}.att.output"
        exact = base[f"{name}.weight"] + ALPHA / RANK * product(lora, name)
        np.testing.assert_allclose(weights.tensors[f"{name}.weight"].decode() * 2 ** (layer // 2), exact, rtol=1e-5, atol=1e-6)
    replaced = weights.tensors["blocks.3.ffn.value.weight"].decode() * 2
    np.testing.assert_allclose(replaced, lora["blocks.3.ffn.value.weight"])


def test_pissa_takes_the_initial_product_away(pth_of: PthOf, tmp_path: Path) -> None:
    base = tiny("7")
    lora, init = lora_of(base), lora_of(base, kind="init_lora", seed=100)
    file, first = (write_pth(tmp_path / f"{n}.pth", c, dtype="f32") for n, c in (("lora", lora), ("init", init)))
    expected = {
        f"{n}.weight": base[f"{n}.weight"] - product(init, n, "init_lora") + product(lora, n) for n in names()
    }
    assert_weights(applied(pth_of(base), file, None, first), expected, rtol=1e-5, atol=1e-6)
    del init["blocks.1.ffn.key.init_lora_B"]
    with pytest.raises(ModelFileError, match=r"init\.pth: has no 'blocks\.1\.ffn\.key\.init_lora_A'"):
        applied(tmp_path / "model.pth", file, None, write_pth(first, init))


@pytest.mark.parametrize("key", ["bone", "disha"])
def test_bone_adds_to_each_square(key: str, pth_of: PthOf, tmp_path: Path) -> None:
    base, r = tiny("7"), 8
    blocks = {f"{n}.{key}": drawn(i, base[f"{n}.weight"].shape[1] // r, r, r) for i, n in enumerate(names())}
    weights = applied(pth_of(base), write_pth(tmp_path / "bone.pth", blocks, dtype="f32"), None)
    for name in names():
        w, b = base[f"{name}.weight"], blocks[f"{name}.{key}"]
        expected = w.copy()
        for i in range(w.shape[0] // r):
            for j in range(w.shape[1] // r):
                square = w[i * r : i * r + r, j * r : j * r + r]
                expected[i * r : i * r + r, j * r : j * r + r] += square @ b[j] + b[j]
        np.testing.assert_allclose(weights.tensors[f"{name}.weight"].decode(), expected, rtol=1e-5, atol=1e-6)


def test_disha_adds_sums_of_inputs(pth_of: PthOf, tmp_path: Path) -> None:
    """y = W x + (the inputs, padded and cut in pieces of r, summed) @ pattern."""
    base, r = tiny("7"), 12  # divides neither 64 nor 160
    patterns = {f"{n}.disha": drawn(i, r, base[f"{n}.weight"].shape[0]) for i, n in enumerate(names())}
    weights = applied(pth_of(base), write_pth(tmp_path / "disha.pth", patterns, dtype="f32"), None)
    for name in names():
        w = base[f"{name}.weight"]
        x = drawn(5, w.shape[1])
        folded = np.pad(x, (0, -len(x) % r)).reshape(-1, r).sum(0)
        expected = w @ x + folded @ patterns[f"{name}.disha"]
        np.testing.assert_allclose(weights.tensors[f"{name}.weight"].decode() @ x, expected, rtol=1e-4, atol=1e-5)


def test_pieces_of_rows_give_the_whole(pth_of: PthOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny("7")
    contents = lora_of(base) | {f"{n}.bone": drawn(9, base[f"{n}.weight"].shape[1] // 8, 8, 8) for n in names()}
    file = write_pth(tmp_path / "l.pth", contents, dtype="f32")
    whole = applied(pth_of(base), file)
    monkeypatch.setattr("rwkv_edge.convert.lora.WEIGHTS_A_PRODUCT", 1000)
    monkeypatch.setattr("rwkv_edge.convert.lora.WEIGHTS_A_PART", 400)
    pieces = applied(tmp_path / "model.pth", file)
    for name in names():
        a, b = (weights.tensors[f"{name}.weight"].decode() for weights in (pieces, whole))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_state_made_with_a_lora_does_not_load_without_it(pth_of: PthOf, tmp_path: Path) -> None:
    base = tiny("7")
    model, file = pth_of(base), write_pth(tmp_path / "lora.pth", lora_of(base), dtype="f32")
    with Model(model, "numpy") as bare, Model(model, "numpy", lora=file, lora_alpha=ALPHA) as tuned:
        assert tuned.fingerprint.startswith(f"{bare.fingerprint}+lora-")
        _, state = tuned.forward([1, 2])
        state.save(tmp_path / "a.state")
        with pytest.raises(StateError, match=r"belongs to 'rwkv7-3x64-\w+\+lora-\w+', this model is 'rwkv7-3x64-\w+'"):
            bare.load_state(tmp_path / "a.state")
        tuned.load_state(tmp_path / "a.state")
    other = write_pth(tmp_path / "other.pth", lora_of(base, seed=50), dtype="f32")
    found = {fingerprint(applied(model, path, alpha)) for path, alpha in ((file, 1.0), (file, 2.0), (other, 1.0))}
    assert len(found) == 3


A, B = "blocks.1.att.key.lora_A", "blocks.1.att.key.lora_B"
GOOD = {A: drawn(1, 4, 64), B: drawn(2, 64, 4)}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({A: drawn(1, 4, 32), B: GOOD[B]}, r"'blocks\.1\.att\.key\.lora_A' has shape \[4, 32\], expected \[any, 64\]"),
        ({A: GOOD[A], B: drawn(1, 64, 5)}, r"'blocks\.1\.att\.key\.lora_B' has shape \[64, 5\], expected \[64, 4\]"),
        ({A: drawn(1, 0, 64), B: drawn(1, 64, 0)}, r"lora_A' has shape \[0, 64\]"),
        ({A: GOOD[A]}, r"'blocks\.1\.att\.key\.lora_B' is missing"),
        ({B: GOOD[B]}, r"'blocks\.1\.att\.key\.lora_A' is missing"),
        ({A.replace("1", "7"): GOOD[A]}, r"7\.att\.key\.lora_A' changes 'blocks\.7\.att\.key\.weight', which is no matrix"),
        ({"blocks.1.ln1.lora_A": GOOD[A]}, r"'blocks\.1\.ln1\.weight', which is no matrix"),
        ({**GOOD, "blocks.1.att.gate.weight": drawn(1, 64, 64)}, r"'blocks\.1\.att\.gate\.weight' is none that"),
        ({**GOOD, "blocks.1.ln1.weight": drawn(1, 32)}, r"'blocks\.1\.ln1\.weight' has shape \[32\], expected \[64\]"),
        ({"blocks.1.att.key.bone": drawn(1, 8, 7, 7)}, r"bone' has shape \[8, 7, 7\], expected r that divides 64 and 64"),
        ({"blocks.1.att.key.bone": drawn(1, 4, 8, 8)}, r"bone' has shape \[4, 8, 8\], expected \[8, 8, 8\]"),
        ({"blocks.1.att.key.bone": drawn(1, 64, 8)}, r"bone' has shape \[64, 8\]"),
        (tiny("7"), "is a model, expected a LoRA file"),
        ({"blocks.0.att.time_state": drawn(1, 4, 16, 16)}, "tuned initial state, expected a LoRA file"),
    ],
)
def test_what_does_not_fit_is_named(contents: Checkpoint, message: str, pth_of: PthOf, tmp_path: Path) -> None:
    file = write_pth(tmp_path / "lora.pth", contents, dtype="f32")
    with pytest.raises(ModelFileError, match=message) as caught:
        applied(pth_of(tiny("7")), file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unused_tensors_of_layer_0_do_no_harm(pth_of: PthOf, tmp_path: Path) -> None:
    lora = GOOD | {"blocks.0.att.v0": drawn(1, 1, 1, 64)}
    weights = applied(pth_of(tiny("7", layer0_v=False)), write_pth(tmp_path / "lora.pth", lora, dtype="f32"))
    assert "blocks.0.att.v0" not in weights.tensors


def test_alpha_is_asked_for(pth_of: PthOf, tmp_path: Path) -> None:
    model, file = pth_of(tiny("7")), write_pth(tmp_path / "lora.pth", GOOD, dtype="f32")
    with pytest.raises(InputError, match="needs lora_alpha, which is not in the file"):
        Model(model, "numpy", lora=file)
    with pytest.raises(InputError, match="give its name"):
        Model(model, "numpy", lora_alpha=3)
    with pytest.raises(InputError, match="must be a number"):
        Model(model, "numpy", lora=file, lora_alpha=float("nan"))
    with pytest.raises(ModelFileError, match=r"lora\.bin"):
        Model(model, "numpy", lora=tmp_path / "lora.bin", lora_alpha=3)


def test_numbers_that_the_format_cannot_hold_are_named(tmp_path: Path) -> None:
    huge = {A: np.full((1, 64), 300, np.float32), B: np.full((64, 1), 300, np.float32)}
    file = write_pth(tmp_path / "lora.pth", huge, dtype="f32")
    with pytest.raises(ModelFileError, match=r"blocks\.1\.att\.key\.weight, changed by it, cannot be f16"):
        applied(write_pth(tmp_path / "m.pth", tiny("7"), dtype="f16"), file)
