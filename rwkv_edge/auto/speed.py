"""How fast a device takes a model's weights, one token at a time: what `auto` goes by.

A measurement runs a small model's worth of matrix products, each in a launch with a norm between. Figures are remembered for a
device, its driver and our version.
"""
import logging
import time

import numpy as np

from rwkv_edge.backend import Backend, Batch, CompileOptions, Device
from rwkv_edge.machine import findings
from rwkv_edge.plan import Plan, PlanBuilder
from rwkv_edge.version import __version__

logger = logging.getLogger("rwkv_edge.devices")
WIDTH, PRODUCTS = 2048, 14  # 62 MB: more than caches hold
LEAST_RUNS, SECONDS = 3, 0.3


def speed(backend: Backend, device: Device | None, anew: bool = False) -> float:
    """Bytes of weights a second. device: the one of its devices that the backend takes, where it lists them.

    anew: whatever is remembered.  Raises BackendError where it does not run.
    """
    key = __version__, backend.name, *((device.name, device.driver) if device else ())
    known = findings.recall("speed", *key)
    if anew or not isinstance(known, float):
        logger.info("measuring how fast %s is", device.name if device else backend.name)
        known = measure(backend)
        findings.remember("speed", known, *key)
    return known


def measure(backend: Backend) -> float:
    """Bytes of weights a second in the quickest of some steps of one token."""
    plan = _plan()
    nbytes = sum(tensor.data.nbytes for tensor in plan.weights() if tensor.format != "f32")
    executable = backend.compile(plan, CompileOptions(sparse=False))
    try:
        state = np.zeros(plan.state_size, executable.state_dtype)
        batch = Batch(np.zeros(1, np.int32), [1], [state], np.zeros(0, np.int32))
        executable.run(batch)
        times: list[float] = []
        while len(times) < LEAST_RUNS or sum(times) < SECONDS:
            start = time.perf_counter()
            executable.run(batch)
            times.append(time.perf_counter() - start)
    finally:
        executable.close()
    return nbytes / min(times)


def _plan() -> Plan:
    from rwkv_edge.weights.samples import random_matrix  # only those who measure need it

    rng = np.random.default_rng(0)
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    p = PlanBuilder()
    x = p.embed(random_matrix(rng, "f32", 1, WIDTH))
    for _ in range(PRODUCTS):
        x = p.matmul(p.layer_norm(x, ones, zeros, 1e-5), random_matrix(rng, "q8_0", WIDTH, WIDTH))
    return p.finish(x)
