"""Where the time of a step goes in the CPU backend: per kind of op, for one token and for a prompt.

    python -m bench.profile MODEL [--threads N] [--tokens T] [--steps S] [--by shape|kind]

working, waiting: microseconds of a step, the mean of all threads, medians over the steps. Waiting: for other threads, at the
barrier before such an op. Outside: before and after the walk of worker 0. GB/s: weights read, while working.
"""
import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from rwkv_edge_cpu.code.system import CLOCK_TICKS
from rwkv_edge_cpu.run.executable import CpuExecutable
from rwkv_edge_cpu.run.steps import Product, Step
from rwkv_edge_cpu.shape import layout

from rwkv_edge import Model
from rwkv_edge.backend import Batch
from rwkv_edge.plan import Activation


@dataclass(slots=True)
class Line:
    """A kind of op in one step: how many, microseconds, bytes of weights."""

    count: int = 0
    working: float = 0.0
    waiting: float = 0.0
    nbytes: int = 0
    barriers: int = 0


def label(step: Step, by: str) -> str:
    if isinstance(step, Product):
        weight, kind = step.op.weight, "MatMul" if step.keys is None else "SparseMatMul"
        n_out, n_in = weight.shape
        lies = "columns" if weight.data.strides[0] < weight.data.strides[1] else "rows"
        return f"{kind} {weight.format} {lies}" + (f" {n_out} x {n_in}" if by == "shape" else "")
    kind = type(step).__name__
    return f"{kind} {step.kind}" if isinstance(step, Activation) and by == "shape" else kind


@dataclass(slots=True)
class Times:
    """Microseconds of the ops, waiting and working by turns. A step is one run or, of a long prompt, several.

    spent: [steps, 2 * ops], means of the threads that took part.  outside: of a step, before and after the walks of worker 0.
    threads: the mean number that took part; some are left out when the machine is busy.  runs: in a step.
    """

    spent: NDArray[np.float64]
    outside: float
    threads: float
    runs: int


def measure(model: Model, tokens: NDArray[np.int32], steps: int) -> Times:
    executable = model._executable
    assert isinstance(executable, CpuExecutable), "bench.profile knows the cpu backend only"
    times, run = executable.keep_times(), executable.run
    walks: list[NDArray[np.float64]] = []  # of a step: one for each piece of the prompt

    def noted(batch: Batch) -> list[NDArray[np.float32]]:
        times[:] = 0
        results = run(batch)
        walks.append(np.where(times == 0, np.nan, times * (1e6 / CLOCK_TICKS)))
        return results

    state = model.new_state()
    spent, outside, threads = [], [], []
    with mock.patch.object(executable, "run", noted):
        for _ in range(steps + 2):
            walks.clear()
            begin = time.perf_counter()
            model.forward(tokens, state)
            wall = 1e6 * (time.perf_counter() - begin)
            spent.append(sum(np.nanmean(np.diff(walk, axis=1), axis=0) for walk in walks))
            outside.append(wall - sum(walk[0, -1] - walk[0, 0] for walk in walks))
            threads.append(np.mean([(~np.isnan(walk[:, 0])).sum() for walk in walks]))
    return Times(np.array(spent[2:]), float(np.median(outside[2:])), float(np.mean(threads[2:])), len(walks))


def lines(steps: list[Step], barriers: NDArray[np.int64], times: Times, by: str) -> dict[str, Line]:
    spent = np.median(times.spent, axis=0)
    table: dict[str, Line] = defaultdict(Line)
    for i, step in enumerate(steps):
        line = table[label(step, by)]
        line.count += 1
        line.waiting += spent[2 * i]
        line.working += spent[2 * i + 1]
        line.barriers += int(barriers[i])
        line.nbytes += times.runs * step.op.weight.nbytes if isinstance(step, Product) else 0
    return table


def show(title: str, table: dict[str, Line], outside: float, tokens: int) -> None:
    wall = outside + sum(line.working + line.waiting for line in table.values())
    print(f"\n{title}: {wall / 1e3:.3f} ms a step, {1e6 * tokens / wall:.1f} tokens/s")
    print(f"{'op':34} {'count':>5} {'barriers':>8} {'working us':>11} {'waiting us':>11} {'share':>7} {'GB/s':>6}")
    for name, line in sorted(table.items(), key=lambda item: -item[1].working - item[1].waiting):
        share = (line.working + line.waiting) / wall
        speed = f"{line.nbytes / line.working / 1e3:6.1f}" if line.nbytes else ""
        numbers = f"{line.count:5} {line.barriers:8} {line.working:11.1f} {line.waiting:11.1f} {share:7.1%}"
        print(f"{name:34} {numbers} {speed}")
    other = sum(line.working for line in table.values() if not line.nbytes)
    waiting = sum(line.waiting for line in table.values())
    print(f"outside {outside:.1f} us ({outside / wall:.1%})", end=" · ")
    print(f"no matrix {other / wall:.1%} · waiting {waiting / wall:.1%}", end=" · ")
    print(f"all but matrices {(other + waiting + outside) / wall:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=512, help="of the prompt; 0: decode alone")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--by", choices=["shape", "kind"], default="shape")
    parser.add_argument("--dense", action="store_true", help="read all weights, also those that meet a zero")
    arguments = parser.parse_args()
    with Model(arguments.model, "cpu", threads=arguments.threads, sparse=False if arguments.dense else None) as model:
        for n, steps in ((1, arguments.steps), (arguments.tokens, 3)):
            if n == 0:
                continue
            times = measure(model, np.arange(1, n + 1, dtype=np.int32), steps)
            records = model._executable._records  # type: ignore[attr-defined]
            table = lines(records.steps, records.fields[:, layout.BARRIER], times, arguments.by)
            title = "one token" if n == 1 else f"{n} tokens" if times.runs == 1 else f"{n} tokens in {times.runs} pieces"
            show(f"{title}, {times.threads:.1f} threads", table, times.outside, n)


if __name__ == "__main__":
    main()
