"""What stays behind when a model on a device generates again and again: memory of the process and of the device.

    python -m bench.generations model.pth ... [--strategy webgpu] [--count 1000] [--save]

A generation is a new state, a prompt of 5 tokens and 4 sampled ones; in every tenth there are three at once, as a batch.
"before" is behind the first tenth, when all kernels are compiled. "device" is what is allocated there, states among it;
"objects" are wgpu-native's own count of live buffers, bind groups, pipelines, encoders and command buffers.
"""
import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bench.table import Row, report
from rwkv_edge import Model, Sampler, Sampling

PROMPT, NEW, AT_ONCE = 5, 4, 3


def resident() -> float:
    """MB of this process that are in memory and its own (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def objects(strategy: str) -> int | None:
    """wgpu-native's, that live; None for other backends."""
    if not strategy.startswith("webgpu"):
        return None
    from wgpu.backends.wgpu_native._helpers import generate_report

    hub: dict[str, dict[str, int]] = generate_report()["hub"]
    return sum(kind["allocated"] for kind in hub.values())


def generate(model: Model, i: int) -> None:
    rng = np.random.default_rng(i)
    prompts = rng.integers(1, model.shape.n_vocab, (AT_ONCE, PROMPT)).tolist()
    sampler = Sampler(Sampling(seed=i, banned_tokens=[0]))
    if i % 10:
        list(model.stream_tokens(prompts[0], model.new_state(), max_tokens=NEW, sampler=sampler))
        return
    _, states = model.forward_batch(prompts)
    for _ in range(NEW):
        model.forward_batch([[1]] * AT_ONCE, states)


def measure(path: Path, strategy: str, count: int) -> Row:
    with Model(path, strategy) as model:
        executable: Any = model._executable

        def now() -> tuple[float, float, int | None]:
            return resident(), executable.driver.live / 1e6, objects(strategy)

        for i in range(count // 10):
            generate(model, i)
        before = now()
        for i in range(count // 10, count):
            generate(model, i)
        after = now()
        return {
            "file": path.name,
            "strategy": strategy,
            "device": executable.driver.name,
            "generations": str(count),
            "process MB": f"{before[0]:.1f} → {after[0]:.1f}",
            "device MB": f"{before[1]:.2f} → {after[1]:.2f}",
            "objects": f"{before[2]} → {after[2]}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--strategy", default="webgpu")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results")
    chosen = parser.parse_args()
    report("generations", [measure(path, chosen.strategy, chosen.count) for path in chosen.files], [], chosen.save)


if __name__ == "__main__":
    main()
