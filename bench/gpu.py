"""What `bench.webgpu` and `bench.opencl` share: tokens per second, against the rate at which a device copies its memory."""
import argparse
import time
from collections.abc import Callable
from dataclasses import replace
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
HOST_WARM = 3  # steps before them: what is done ahead is done from the second on
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


def host_seconds(model: Model, tokens: list[int]) -> tuple[list[float], list[float]]:
    """Of steps: what the host takes without waiting for the device, and how much of that the device waits for.

    Every launch has one workgroup then, so that a device that is this very CPU leaves it to the host.
    """
    executable: Any = model._executable
    driver, layouts = executable.driver, executable._layouts
    _, state = model.forward([1])
    executable._layouts = {key: replace(each, grids=[(1, 1, 1)] * len(each.grids)) for key, each in layouts.items()}
    executable._recordings.clear()  # what a driver keeps for launches that come again is of these grids then
    whole, exposed = [], []
    for step, token in enumerate([*tokens[:HOST_WARM], *tokens]):
        waited, ahead, start = driver.waited, driver_ahead(driver), time.perf_counter()
        model.forward([token], state)
        seconds = time.perf_counter() - start - (driver.waited - waited)
        if step >= HOST_WARM:
            whole.append(seconds)
            exposed.append(seconds - (driver_ahead(driver) - ahead))
    executable._layouts = layouts
    executable._recordings.clear()
    return whole, exposed


def driver_ahead(driver: Any) -> float:
    """Seconds of work on the next launch while the device was at one, in all; 0 of a driver that does none."""
    return getattr(driver, "ahead", 0.0)


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
        hosts, exposed = host_seconds(model, facts.tokens(HOST_STEPS))
        copied = copy_rate(driver, copy, chosen.rounds)
        read = median(decodes) * executable.matrix_bytes / 1e9
        return {
            "file": path.name,
            "strategy": chosen.strategy,
            "device": driver.name,
            "features": " ".join(driver.features),
            "decode tok/s": median(decodes),
            "GB/s": read,
            "of copy": f"{100 * read / copied:.0f} % of {copied:.1f}",
            f"prefill {chosen.prompt} tok/s": median(prompts),
            "launches": float(executable.launches),
            "host ms": 1e3 * median(hosts),
            "least": 1e3 * min(hosts),
            "exposed ms": 1e3 * median(exposed),
            "its least": 1e3 * min(exposed),
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
