"""The commands that measure quality: groups of real tensors, a row for every type, a picture that is one."""
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from bench import held_out, policy
from bench.held_out import HeldOut, in_float32, matrices, with_tensors
from bench.picture import Point, scatter
from bench.quality import megabytes, rows_of_types
from rwkv_edge.convert.mix import MATRIX, MIXES
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.weights import open_weights


@pytest.fixture
def text(tmp_path: Path) -> HeldOut:
    (tmp_path / "text.py").write_text("import os\n\n\ndef first(names):\n    return names[0]\n" * 4)
    return HeldOut([str(tmp_path / "text.py")])


def test_groups_of_the_policy_are_the_models_tensors_each_once() -> None:
    tensors = open_weights(MODEL_PATH).tensors
    of_a_kind = [pattern for label, pattern in policy.GROUPS.items() if "layer" not in label and "of the" not in label]
    found = [name for pattern in of_a_kind for name in tensors if re.fullmatch(pattern, name)]
    low_rank = [name for name in tensors if re.fullmatch(policy.GROUPS["low-rank maps"], name)]
    assert len(low_rank) == 4 * 8 - 2  # the first layer has no v1, v2
    assert sorted(found) == sorted([*low_rank, *(name for name in tensors if MATRIX.fullmatch(name))])
    by_layer = [p for label, p in policy.GROUPS.items() if "layer" in label or "of the" in label]
    in_layers = [name for name in tensors if MATRIX.fullmatch(name) and name.startswith("blocks")]
    assert sorted(name for p in by_layer for name in in_layers if re.fullmatch(p, name)) == sorted(in_layers)


def test_the_default_is_among_the_mixes_that_were_tried() -> None:
    tried = [(m.matrices, m.head, m.embedding, m.exceptions) for m in policy.CANDIDATES.values()]
    mix = MIXES["q4"]
    assert (mix.matrices, mix.head, mix.embedding, mix.exceptions) in tried


def test_a_model_scores_by_its_distance_from_the_floats(text: HeldOut) -> None:
    same = text.score(in_float32(text.weights))
    assert (same.kl_mean, same.top1_agreement, same.perplexity) == (0, 1, text.perplexity)
    rng = np.random.default_rng(0)
    noisy = {
        name: t.decode() + 0.01 * rng.standard_normal(t.shape, np.float32) for name, t in matrices(text.weights).items()
    }
    found = text.score(with_tensors(in_float32(text.weights), noisy))
    assert 0 < found.kl_mean < found.kl_p99


def test_measured_text_is_apart_from_what_calibrates() -> None:
    assert not set(held_out.HELD_OUT) & set(held_out.CALIBRATION)


def test_every_type_is_in_one_row() -> None:
    rows = rows_of_types(list(MIXES))
    assert sorted(" ".join(label for label, _, calibrated in rows if not calibrated).split()) == sorted(MIXES)
    assert ("q4 --calibrate", "q4", True) in rows
    assert megabytes(MIXES["q4_k_m"]) < megabytes(MIXES["q4"]) < 1.05 * megabytes(MIXES["q4_k_m"]) + 100


def test_the_picture_has_every_point_and_no_label_on_another() -> None:
    points = [Point("a & b", 0.8, 0.01, ours=True), Point("c", 0.8, 0.0101), Point("d", 1.13, 2e-5), Point("e", 0.6, 0.02)]
    root = ET.fromstring(scatter(points, "title", "x", "y"))
    space = "{http://www.w3.org/2000/svg}"
    dots = root.findall(f"{space}circle")
    assert len(dots) == 4
    labels = {text.text: text for text in root.findall(f"{space}text")}
    assert {"a & b", "c", "d", "e", "title", "0.0001", "0.01", "1.2"} <= labels.keys()
    assert labels["a & b"].get("text-anchor") != labels["c"].get("text-anchor")
    height = {dot.get("cy"): float(dot.get("cy", "")) for dot in dots}
    assert max(height.values()) == float(dots[-1].get("cy", ""))  # the least divergence lies lowest
    assert "prefers-color-scheme: dark" in ET.tostring(root, encoding="unicode")
