"""An op that a backend does not know, such as a new model version's, is refused in a sentence: `auto` then goes on."""
from dataclasses import dataclass, replace

import pytest

from rwkv_edge import registry
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Activation, Buffer
from tests.cpu.plans import deep_plan


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """What no backend has heard of."""

    out: Buffer
    x: Buffer


def test_an_unknown_op_is_named(backend_name: str) -> None:
    if backend_name == "numpy":
        pytest.skip("it is the definition of all ops")
    plan = deep_plan(1)
    ops = tuple(Novelty(op.out, op.x) if isinstance(op, Activation) else op for op in plan.ops)
    with pytest.raises(BackendError, match="Novelty"):
        registry.usable(backend_name).compile(replace(plan, ops=ops))  # type: ignore[arg-type]
