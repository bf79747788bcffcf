"""The self-test finds what is wrong, and what was found is kept."""
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rwkv_edge_device import self_test
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge.machine import findings, user_cache
from rwkv_edge.plan import ACTIVATIONS, Activation, MatMul, Op, Plan
from rwkv_edge.strategy import WEIGHT_FORMATS
from rwkv_edge.weights.tensor import Tensor


def rounded(word: str) -> str:
    """The weight format that a strategy's word means."""
    return str(WEIGHT_FORMATS[word][0])


class Wrong:
    """NumPy's executable with results that are a little off."""

    def __init__(self, plan: Plan, factor: float) -> None:
        self.executable, self.factor = numpy_backend.compile(plan), factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executable, name)

    def run(self, batch: Any) -> Any:
        return [rows * np.float32(self.factor) for rows in self.executable.run(batch)]


def test_a_right_device_passes() -> None:
    assert self_test.find_wrong(numpy_backend.compile, numpy_backend.compile) == ""


@pytest.mark.parametrize("factor", [1.01, np.nan, np.inf])
def test_a_wrong_one_does_not(factor: float) -> None:
    assert "results of 1 tokens" in self_test.find_wrong(lambda plan: Wrong(plan, factor), numpy_backend.compile)


PRODUCTS = [op for op in self_test.small_plan().ops if isinstance(op, MatMul)]


@pytest.mark.parametrize("product", PRODUCTS, ids=[f"{op.weight.format} {op.out.index}" for op in PRODUCTS])
def test_a_product_of_one_format_that_is_wrong(product: MatMul) -> None:
    """Whichever: no result is so large that it hides another."""

    def almost(plan: Plan) -> Any:
        weight = Tensor("w", product.weight.shape, "f32", product.weight.decode() * np.float32(0.99))
        changed = (replace(op, weight=weight) if isinstance(op, MatMul) and op.out == product.out else op for op in plan.ops)
        return numpy_backend.compile(replace(plan, ops=tuple(changed)))

    assert self_test.find_wrong(almost, numpy_backend.compile)


def test_every_op_is_in_it() -> None:
    plan = self_test.small_plan()
    assert {type(op) for op in plan.ops} == set(Op.__args__)
    assert {op.kind for op in plan.ops if isinstance(op, Activation)} == set(ACTIVATIONS)


def test_results_are_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path / "new"))
    assert findings.recall("self-test", "a", "1") is None
    findings.remember("self-test", "", "a", "1")
    findings.remember("self-test", "bad", "a", "2")
    assert findings.recall("self-test", "a", "1") == ""
    assert findings.recall("self-test", "a", "2") == "bad"
    assert findings.recall("self-test", "a", "3") is findings.recall("speed", "a", "1") is None
    assert self_test.wrong_once(lambda plan: pytest.fail("tested again"), "a", "2") == "bad"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"wrong": 3}', "\0"])
def test_damaged_notes_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    findings.remember("self-test", "", "a")
    (file,) = tmp_path.glob("self-test-*.json")
    file.write_text(text)
    assert findings.recall("self-test", "a") is None


def test_a_directory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path / "file" / "below"))
    findings.remember("self-test", "", "a")
    assert findings.recall("self-test", "a") is None
