"""What `bench.webgpu` and `bench.opencl` share: tokens per second, against the rate at which a device copies its memory."""
import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.model_facts import model_facts
from bench.table import Row, report
from rwkv_edge import Model

COPIED = 64 << 20
COPIES = 8
HOST_STEPS = 100
Copy = Callable[[Any, Any, Any], None]  # a driver, a source and a target of COPIED bytes: starts COPIES copies


def copy_rate(driver: Any, copy: Copy, rounds: int) -> float:
    """GB/s, read and written."""
    source, target = driver.allocate(COPIED, "a copy"), driver.allocate(COPIED, "a copy")
    one, seconds = np.zeros(4, np.float32), []
    for _ in range(rounds + 1):
        driver.read(target, 0, one)
        start = time.perf_counter()
        copy(driver, source, target)
        driver.read(target, 0, one)
        seconds.append(time.perf_counter() - start)
    driver.free(source)
    driver.free(target)
    return 2 * COPIED * COPIES / median(seconds[1:]) / 1e9


def host_seconds(model: Model, tokens: list[int]) -> list[float]:
    """Of steps: what the host takes without waiting for the device.

    Every launch has one workgroup then, so that a device that is this very CPU leaves it to the host.
    """
    executable: Any = model._executable
    driver, grids = executable.driver, executable._grids
    _, state = model.forward([1])
    executable._grids = {key: [(1, 1, 1)] * len(launches) for key, launches in grids.items()}
    seconds = []
    for token in tokens:
        waited, start = driver.waited, time.perf_counter()
        model.forward([token], state)
        seconds.append(time.perf_counter() - start - (driver.waited - waited))
    executable._grids = grids
    return seconds


def measure(path: Path, chosen: argparse.Namespace, copy: Copy) -> Row:
    facts = model_facts(path)
    with Model(path, chosen.strategy) as model:
        executable: Any = model._executable
        driver = executable.driver
        prompt, tokens = facts.tokens(chosen.prompt), facts.tokens(chosen.tokens)
        _, state = model.forward(prompt)  # compiles the kernels
        model.forward([1], state)
        prompts, decodes = [], []
        for _ in range(chosen.rounds):
            start = time.perf_counter()
            model.forward(prompt)
            prompts.append(len(prompt) / (time.perf_counter() - start))
            start = time.perf_counter()
            for token in tokens:
                model.forward([token], state)
            decodes.append(len(tokens) / (time.perf_counter() - start))
        hosts = host_seconds(model, facts.tokens(HOST_STEPS))
        copied = copy_rate(driver, copy, chosen.rounds)
        read = median(decodes) * executable.matrix_bytes / 1e9
        return {
            "file": path.name,
            "strategy": chosen.strategy,
            "device": driver.name,
            "decode tok/s": median(decodes),
            "GB/s": read,
            "of copy": f"{100 * read / copied:.0f} % of {copied:.1f}",
            f"prefill {chosen.prompt} tok/s": median(prompts),
            "launches": float(executable.launches),
            "host ms": 1e3 * median(hosts),
            "least": 1e3 * min(hosts),
        }


def main(command: str, about: str | None, copy: Copy) -> None:
    """command: the module's name, and the backend's."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="models (bench.make_model makes some)")
    parser.add_argument("--strategy", default=command)
    parser.add_argument("--tokens", type=int, default=64, help="a measurement of decode")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a measurement of prefill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    chosen = parser.parse_args()
    report(command, [measure(path, chosen, copy) for path in chosen.files], [], chosen.save)
