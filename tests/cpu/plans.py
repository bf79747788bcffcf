"""Small plans for tests of what surrounds the ops."""
import numpy as np

from rwkv_edge.backend import Batch
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.weights.tensor import Tensor

VOCABULARY, WIDTH = 11, 48


def deep_plan(layers: int = 8) -> Plan:
    """Matrices, norms and state, one behind the other: many barriers."""
    rng = np.random.default_rng(0)

    def matrix(n_out: int, n_in: int) -> Tensor:
        return Tensor("w", (n_out, n_in), "f32", rng.standard_normal((n_out, n_in)).astype(np.float32) / 7)

    p = PlanBuilder()
    ones = np.ones(WIDTH, np.float32)
    x = p.embed(matrix(VOCABULARY, WIDTH))
    for i in range(layers):
        y = p.layer_norm(p.lerp(x, p.token_shift(x, p.slot(f"{i}", WIDTH)), ones / 3), ones, ones, 1e-5)
        x = p.add(x, p.matmul(p.activation(p.matmul(y, matrix(100, WIDTH)), "tanh"), matrix(WIDTH, 100)))
    return p.finish(p.matmul(p.select_outputs(x), matrix(VOCABULARY, WIDTH)))


def batch(plan: Plan, seed: int = 0) -> Batch:
    """Two segments of five and three tokens with fresh states; all rows are wanted."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, 8).astype(np.int32)
    states = [np.zeros(plan.state_size, np.float32) for _ in range(2)]
    return Batch(tokens, [5, 3], states, np.arange(8, dtype=np.int32))
