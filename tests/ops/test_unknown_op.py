"""An op that a backend does not know, such as a new model version's, is refused in a sentence: `auto` then goes on."""
from dataclasses import dataclass, replace

import pytest

from rwkv_edge import registry
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Activation, Buffer, Plan
from rwkv_edge.strategy import compiled, parse
from tests.cpu.plans import deep_plan


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """What no backend has heard of."""

    out: Buffer
    x: Buffer


@pytest.fixture
def plan() -> Plan:
    plan = deep_plan(1)
    ops = tuple(Novelty(op.out, op.x) if isinstance(op, Activation) else op for op in plan.ops)
    return replace(plan, ops=ops)  # type: ignore[arg-type]


def test_an_unknown_op_is_named(backend_name: str, plan: Plan) -> None:
    with pytest.raises(BackendError, match=f"the {backend_name} backend has no kernel for Novelty"):
        compiled(plan, parse(backend_name))


def test_compiling_alone_names_it_too(backend_name: str, plan: Plan) -> None:
    backend = registry.usable(backend_name)
    if backend.traits.definition:
        pytest.skip("it is the definition of all ops")
    with pytest.raises(BackendError, match="Novelty"):
        backend.compile(plan)
