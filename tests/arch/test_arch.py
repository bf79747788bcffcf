"""Versions and shapes are read from the tensors; what does not fit is refused with its name."""
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge import Model, ModelFileError
from rwkv_edge.arch import build_plan, read_shape
from rwkv_edge.plan import L2Normalize, SelectOutputs, inputs
from rwkv_edge.weights import open_weights
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny

PthOf = Callable[[Checkpoint], Path]


@pytest.mark.parametrize("version", VERSIONS)
def test_version_and_shape_come_from_the_tensors(version: str, pth_of: PthOf) -> None:
    shape = read_shape(open_weights(pth_of(tiny(version))))
    assert shape.version == version
    assert (shape.n_layer, shape.n_embd, shape.n_ffn, shape.n_vocab) == (3, 64, 160, 97)
    assert shape.head_size == (64 if version == "4" else 16)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_missing_tensor_is_named(version: str, pth_of: PthOf) -> None:
    checkpoint = tiny(version)
    unused = re.compile(r"blocks\.0\.att\.v[012]$")  # version 7's first layer has nothing to mix its values with
    for name in [n for n in checkpoint if re.match(r"emb|head|ln_out|blocks\.[02]\.", n) and not unused.match(n)]:
        weights = {n: array for n, array in checkpoint.items() if n != name}
        with pytest.raises(ModelFileError) as caught:
            build_plan(open_weights(pth_of(weights)))
        # Without a telltale tensor the model looks like another version, which then misses or does not know one.
        assert re.search("missing|no RWKV model|expected|unknown variant", str(caught.value))
        assert "model.pth" in str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_misshaped_tensor_is_named(version: str, pth_of: PthOf) -> None:
    checkpoint = tiny(version)
    for name in [n for n in checkpoint if n.startswith("blocks.1.")]:
        array = checkpoint[name]
        weights = checkpoint | {name: np.concatenate([array, array], axis=-1)}
        # Of the two halves of a low-rank map either may be the wrong one.
        named = re.sub(r"([wavg])[12]$", r"\1[12]", re.escape(name))
        with pytest.raises(ModelFileError, match=named):
            build_plan(open_weights(pth_of(weights)))


def test_version_7_runs_with_and_without_the_unused_tensors_of_layer_0(pth_of: PthOf) -> None:
    logits = []
    for layer0_v in (True, False):
        checkpoint = tiny("7") if layer0_v else {n: a for n, a in tiny("7").items() if not re.search(r"0\.att\.v[012]$", n)}
        with Model(pth_of(checkpoint), "numpy") as model:
            logits.append(model.forward([1, 2, 3])[0])
    assert np.array_equal(*logits)


@pytest.mark.parametrize(
    ("name", "what"),
    [("blocks.0.ffn.s_emb.weight", "DeepEmbed"), ("blocks.1.ffn.s0", "DeepEmbed"), ("blocks.0.qkv.weight", "ROSA")],
)
def test_research_variants_are_refused_by_name(name: str, what: str, pth_of: PthOf) -> None:
    checkpoint = tiny("7") | {name: np.zeros((4, 4), np.float32)}
    with pytest.raises(ModelFileError, match=what):
        read_shape(open_weights(pth_of(checkpoint)))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_tensor_means_an_unknown_variant(version: str, pth_of: PthOf) -> None:
    checkpoint = tiny(version) | {"blocks.1.att.surprise": np.zeros(64, np.float32)}
    with pytest.raises(ModelFileError, match=rf"unknown variant of RWKV-{version}.*blocks\.1\.att\.surprise"):
        build_plan(open_weights(pth_of(checkpoint)))


def test_another_kind_of_model_is_refused(pth_of: PthOf) -> None:
    with pytest.raises(ModelFileError, match="no RWKV model"):
        read_shape(open_weights(pth_of({"emb.weight": np.zeros((4, 4), np.float32)})))


def test_a_gap_between_layers_is_named(pth_of: PthOf) -> None:
    checkpoint = {n: a for n, a in tiny("6").items() if not n.startswith("blocks.1.")}
    with pytest.raises(ModelFileError, match="layer 1 is missing"):
        read_shape(open_weights(pth_of(checkpoint)))


def test_a_state_tuned_file_starts_every_sequence_from_its_state(pth_of: PthOf, backend_name: str) -> None:
    for version in ("5.2", "6", "7"):
        tuned = {f"blocks.{i}.att.time_state": np.full((4, 16, 16), 0.1 * i, np.float32) for i in range(3)}
        tuned["blocks.2.att.time_state"][1, 2, 3] = 5.0
        with Model(pth_of(tiny(version) | tuned), backend_name) as model:
            wkv = model.new_state()["blocks.2.att.wkv"]
            # The file's axes are [head, value, key]; versions 5 and 6 keep [head, key, value].
            assert (wkv[1, 2, 3] if version == "7" else wkv[1, 3, 2]) == 5.0
        with Model(pth_of(tiny(version)), backend_name) as model:
            assert not model.new_state()["blocks.2.att.wkv"].any()


def test_a_rescaled_model_computes_the_same_even_where_its_stream_is_as_small_as_epsilon(tmp_path: Path) -> None:
    """Every other layer halves the stream, so each norm's epsilon must shrink with the variance that it is added to."""
    checkpoint = tiny("6", n_layer=5)
    for name in checkpoint:
        if re.search(r"\.ln0\.|att\.output|ffn\.value", name):
            checkpoint[name] /= 2**9  # what is added to the stream: its variance becomes about 4e-6, epsilon is 1e-5
    logits = []
    for every in (0, 2):
        with Model(write_gguf(tmp_path / f"{every}.gguf", checkpoint, rescale_every=every), "numpy fp64") as model:
            logits.append(model.forward([1, 2, 3])[0])
    np.testing.assert_allclose(*logits, rtol=1e-9)


def test_version_7_makes_the_shortest_keys_unit_vectors_and_none_of_zero(pth_of: PthOf) -> None:
    """As torch's normalize: x / max(|x|, 1e-12)."""
    plan = build_plan(open_weights(pth_of(tiny("7"))))
    assert {op.eps for op in plan.ops if isinstance(op, L2Normalize)} == {1e-12}

    def logits(scale: float) -> NDArray[Any]:
        scaled = {name: array * np.float32(scale if name.endswith("k_k") else 1) for name, array in tiny("7").items()}
        with Model(pth_of(scaled), "numpy fp64") as model:
            return model.forward([1, 2, 3])[0]

    np.testing.assert_allclose(logits(2**-30), logits(1), rtol=1e-6)
    assert np.isfinite(logits(0)).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_writes_every_buffer_once_and_before_it_is_read(version: str, pth_of: PthOf) -> None:
    plan = build_plan(open_weights(pth_of(tiny(version))))
    written: set[int] = set()
    for op in plan.ops:
        assert all(buffer.index in written for buffer in inputs(op))
        assert op.out.index not in written
        written.add(op.out.index)
        per_output = any(b.per_output for b in inputs(op)) or isinstance(op, SelectOutputs)
        assert op.out.per_output == per_output
    assert plan.logits.per_output
    assert len(plan.layer_starts) == 4
    ends = [slot.offset + slot.size for slot in plan.slots]
    assert [slot.offset for slot in plan.slots] == [0, *ends[:-1]]
    assert ends[-1] == plan.state_size
