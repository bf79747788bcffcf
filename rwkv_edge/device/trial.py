"""Whether a device is faster with products of packed bytes. It has them in its language anyway, maybe not in its hardware."""
import time
from collections.abc import Callable
from contextlib import closing, suppress

import numpy as np

from rwkv_edge import findings
from rwkv_edge.backend import Batch, Executable
from rwkv_edge.device.found import Compiler, Found
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.quant.samples import random_matrix

FEATURE = "packed_dot"
WIDTH, PRODUCTS, TOKENS = 1024, 4, 64
LEAST_RUNS, SECONDS = 3, 0.5
GAIN = 1.1  # at least, for what costs some exactness


def as_is_faster(compiler: Compiler, device: Found, *key: str) -> Found:
    """The device with the feature or without. What was found is remembered for a `key`: versions, kernels.

    compiler: of an executable on a device with the features that it says.
    Raises BackendError where the device does not run without the feature.
    """
    if FEATURE not in device.features:
        return device
    plain, of = device.without(FEATURE), (device.describe(), *device.features, device.driver, *key)
    faster = findings.recall(FEATURE, *of)
    if not isinstance(faster, str):
        faster = "yes" if gain(compiler(device), compiler(plain)) >= GAIN else "no"
        findings.remember(FEATURE, faster, *of)
    return device if faster == "yes" else plain


def gain(with_it: Callable[[Plan], Executable], without: Callable[[Plan], Executable]) -> float:
    """How many times faster a prompt is; 0 where the device does not run with it."""
    plan = products()
    with closing(without(plan)) as plain, suppress(BackendError), closing(with_it(plan)) as packed:
        return _gain(packed, plain)
    return 0.0


def _gain(packed: Executable, plain: Executable) -> float:
    no_state, nothing = np.zeros(0, np.float32), np.zeros(0, np.int32)
    batch = Batch(np.zeros(TOKENS, np.int32), [TOKENS], [no_state], nothing, [np.ones((TOKENS, WIDTH), np.float32)])
    times: dict[Executable, list[float]] = {packed: [], plain: []}
    begun = time.perf_counter()
    while len(times[plain]) <= LEAST_RUNS or time.perf_counter() - begun < SECONDS:
        for executable, taken in times.items():
            start = time.perf_counter()
            executable.run(batch)
            taken.append(time.perf_counter() - start)
    return min(times[plain]) / min(times[packed])


def products() -> Plan:
    """Some, one after the other."""
    rng, p = np.random.default_rng(0), PlanBuilder()
    x = p.input(WIDTH)
    for _ in range(PRODUCTS):
        x = p.matmul(x, random_matrix(rng, "q8_0", WIDTH, WIDTH))
    return p.finish(x)
