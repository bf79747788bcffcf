"""Whether a device computes what the ops' definition does: every op in one small plan, one token and many.

Drivers of small GPUs are known to get some kernels wrong without any error.
"""
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge import registry
from rwkv_edge.backend import Batch, Executable
from rwkv_edge.machine import findings
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.samples import random_matrix

WIDTH, N_HEAD, VOCABULARY = 256, 4, 32
TOLERANCE = 1e-3  # of the largest number; a right one is below 1e-5
LENGTHS = ([1], [2], [1, 2], [5, 3], [11, 1, 5])  # rows for which there are kernels of their own
FORMATS_TESTED = ("f32", "bf16", "q8_0", "q4_0", "q5_1", "q4_k", "q6_k")  # with f16 all widths, each form of scales and offsets
PEAK = 127  # of whole numbers


def wrong_once(compile: Callable[[p.Plan], Executable], *key: str) -> str:
    """What `find_wrong` says of a device, or said before with the same `key`: device, features, driver, versions, kernels."""
    wrong = findings.recall("self-test", *key)
    if not isinstance(wrong, str):
        wrong = find_wrong(compile, registry.definition().compile)
        findings.remember("self-test", wrong, *key)
    return wrong


def find_wrong(compile: Callable[[p.Plan], Executable], definition: Callable[[p.Plan], Executable]) -> str:
    """What is wrong, or "". compile: the device's; definition: see `registry.definition`. Raises what `compile` raises."""
    plan = small_plan()
    ours, theirs = compile(plan), definition(plan)
    rng = np.random.default_rng(0)
    try:
        for lengths in LENGTHS:
            states = [np.full(plan.state_size, 0.1, np.float32) for _ in lengths]
            copies = [state.copy() for state in states]
            for _ in range(2):
                tokens = rng.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
                outputs = np.arange(sum(lengths), dtype=np.int32)
                rows = [rng.standard_normal((sum(lengths), WIDTH)).astype(np.float32), _whole_numbers(rng, sum(lengths))]
                (actual,) = ours.run(Batch(tokens, lengths, states, outputs, rows))
                (expected,) = theirs.run(Batch(tokens, lengths, copies, outputs, rows))
                if not (error := _error(actual, expected)) < TOLERANCE:
                    return f"results of {len(tokens)} tokens are off by {error:.1e} of their size"
    finally:
        ours.close()
        theirs.close()
    return ""


def _error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _whole_numbers(rng: np.random.Generator, n_rows: int) -> NDArray[np.float32]:
    """Inputs that lose nothing where they are rounded to bytes, with a scale for every eight: the largest of eight is PEAK."""
    numbers = rng.integers(-PEAK, PEAK + 1, (n_rows, WIDTH))
    numbers[:, ::8] = PEAK
    return numbers.astype(np.float32)


def small_plan() -> p.Plan:
    """All ops, in numbers of about one."""
    rng = np.random.default_rng(1)
    b = p.PlanBuilder()

    def vector(low: float = -1, high: float = 1) -> NDArray[np.float32]:
        return rng.uniform(low, high, WIDTH).astype(np.float32)

    def norm(x: p.Buffer) -> p.Buffer:
        return b.layer_norm(x, vector(), vector(), 1e-5)

    x = norm(b.add(b.embed(random_matrix(rng, "f32", VOCABULARY, WIDTH)), b.input(WIDTH)))
    before, whole_numbers = b.token_shift(x, b.slot("shift", WIDTH)), b.input(WIDTH)
    total = x
    for format in FORMATS_TESTED:
        matrix, is_float = random_matrix(rng, format, WIDTH, WIDTH), FORMATS[format].is_float
        product = b.matmul(b.lerp(x, before, vector(0, 1)) if is_float else whole_numbers, matrix)
        size = float(np.linalg.norm(matrix.decode(), axis=1).mean()) * (1 if is_float else PEAK / 2)
        total = b.add(total, b.scale(product, 1 / size))  # none so large that it hides another's error
    x = norm(total)
    r, k, v = (b.matmul(b.lerp(x, before, vector(0, 1)), random_matrix(rng, "f16", WIDTH, WIDTH)) for _ in range(3))
    decay, gate = b.activation(r, "decay7"), b.activation(v, "sigmoid")
    kk = b.l2_normalize(b.multiply(k, vector()), N_HEAD, 1e-12)
    size = WIDTH // N_HEAD
    y = b.wkv7(r, decay, k, v, kk, gate, N_HEAD, b.slot("wkv7", N_HEAD, size, size))
    y = b.add(b.group_norm(y, vector(), vector(), N_HEAD, 1e-4), b.head_bonus(r, k, v, vector(), N_HEAD))
    z = b.wkv6(r, k, v, b.activation(k, "exp_neg_exp"), vector(), N_HEAD, b.slot("wkv6", N_HEAD, size, size))
    y = b.add(y, b.group_norm(z, vector(), vector(), N_HEAD, 1e-4))
    y = b.add(y, b.wkv4(k, v, vector(-2, -1), vector(), b.slot("wkv4", 3, WIDTH)))
    y = b.scale(b.add(b.activation(y, "tanh"), b.activation(b.activation(y, "silu"), "relu_squared")), 0.5)
    x = norm(b.select_outputs(b.multiply(b.add(x, y), vector(0.5, 1))))
    return b.finish(b.matmul(x, random_matrix(rng, "bf16", VOCABULARY, WIDTH)))
