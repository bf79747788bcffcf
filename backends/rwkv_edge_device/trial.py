"""Whether a device is faster with products of packed bytes. It has them in its language anyway, maybe not in its hardware."""
import time
from collections.abc import Callable
from contextlib import closing, suppress

import numpy as np

from rwkv_edge.backend import Batch, Executable
from rwkv_edge.errors import BackendError
from rwkv_edge.machine import findings
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.weights.samples import random_matrix
from rwkv_edge_device.found import Compiler, Found

FEATURE = "packed_dot"
WIDTH, PRODUCTS = 1024, 4
TRIAL_TOKENS = (64, 512)  # for a quick device more of them: launches and waiting take their time too
QUICK = 0.01  # seconds
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
    few, many = map(_prompt, TRIAL_TOKENS)
    _seconds(plain, few)  # compiles
    prompt = many if _seconds(plain, few) < QUICK else few
    times: dict[Executable, list[float]] = {packed: [], plain: []}
    begun = time.perf_counter()
    while len(times[plain]) <= LEAST_RUNS or time.perf_counter() - begun < SECONDS:
        for executable, taken in times.items():
            taken.append(_seconds(executable, prompt))
    return min(times[plain]) / min(times[packed])


def _prompt(tokens: int) -> Batch:
    """Of which one row comes back."""
    outputs, rows = np.zeros(1, np.int32), np.ones((tokens, WIDTH), np.float32)
    return Batch(np.zeros(tokens, np.int32), [tokens], [np.zeros(0, np.float32)], outputs, [rows])


def _seconds(executable: Executable, batch: Batch) -> float:
    start = time.perf_counter()
    executable.run(batch)
    return time.perf_counter() - start


def products() -> Plan:
    """Some, one after the other."""
    rng, p = np.random.default_rng(0), PlanBuilder()
    x = p.input(WIDTH)
    for _ in range(PRODUCTS):
        x = p.matmul(x, random_matrix(rng, "q8_0", WIDTH, WIDTH))
    return p.finish(p.select_outputs(x))
