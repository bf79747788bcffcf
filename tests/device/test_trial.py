"""A trial decides whether a device's products of packed bytes are used."""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rwkv_edge_device import trial
from rwkv_edge_device.found import Found
from rwkv_edge_device.trial import as_is_faster
from rwkv_edge_numpy import backend as numpy_backend

from rwkv_edge.backend import Executable
from rwkv_edge.errors import BackendError
from rwkv_edge.machine import user_cache
from rwkv_edge.plan import Plan

CARD = Found("a card", "discrete", "1.0", "Vulkan", None, features=("subgroup", "packed_dot"))


def compiler(device: Found) -> Callable[[Plan], Executable]:
    return numpy_backend.compile


@pytest.fixture(autouse=True)
def new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))


@pytest.mark.parametrize(("gain", "features"), [(1.2, ("subgroup", "packed_dot")), (1.05, ("subgroup",)), (0.0, ("subgroup",))])
def test_they_are_used_where_they_are_clearly_faster(
    gain: float, features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "gain", lambda *_: gain)
    assert as_is_faster(compiler, CARD, "1").features == features


OTHERS = {
    "another driver": (replace(CARD, driver="1.1"), "1"),
    "another API": (replace(CARD, api="Metal"), "1"),
    "fewer features": (CARD.without("subgroup"), "1"),
    "other kernels": (CARD, "2"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_was_found_is_remembered_until_something_is_another(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "gain", lambda *_: 2.0)
    as_is_faster(compiler, CARD, "1")
    monkeypatch.setattr(trial, "gain", lambda *_: 0.5)
    assert as_is_faster(compiler, CARD, "1") == CARD
    device, kernels = OTHERS[other]
    assert "packed_dot" not in as_is_faster(compiler, device, kernels).features


def test_a_device_without_them_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "gain", lambda *_: pytest.fail("tried"))
    plain = CARD.without("packed_dot")
    assert as_is_faster(compiler, plain, "1") == plain


def test_a_gain_is_a_ratio_of_times() -> None:
    assert 0.01 < trial.gain(numpy_backend.compile, numpy_backend.compile) < 100


def test_a_compiler_that_refuses_them_gains_nothing() -> None:
    def refuse(plan: Plan) -> Any:
        raise BackendError("no such function")

    assert trial.gain(refuse, numpy_backend.compile) == 0
    with pytest.raises(BackendError, match="no such function"):
        trial.gain(numpy_backend.compile, refuse)
