"""How many threads by default, on machines that this one is not."""
import math
import os
from pathlib import Path

import pytest
from rwkv_edge_cpu.run import cores

CPU = "sys/devices/system/cpu"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("0,2-3\n", {0, 2, 3}), ("", set()), ("none", set()), ("3-", {3}), ("-1", set())],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert cores.cpu_list(text) == cpus


def test_a_machine_that_tells_nothing_uses_all(tmp_path: Path) -> None:
    assert cores.fast_cpus({0, 1, 5}, tmp_path) == {0, 1, 5}
    assert cores.one_of_each_core({0, 1, 5}, tmp_path) == {0, 1, 5}
    assert cores.cpu_quota(tmp_path) == math.inf


def test_intel_hybrid(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"})
    assert cores.fast_cpus(set(range(8)), root) == {0, 1, 2, 3}
    assert cores.fast_cpus({2, 6}, root) == {2}
    assert cores.fast_cpus({5, 6}, root) == {5, 6}  # only slow ones are allowed


@pytest.mark.parametrize(
    ("capacities", "fast"),
    [
        ([446, 446, 446, 446, 1024, 1024], {4, 5}),  # RK3399
        ([325, 325, 325, 828, 828, 1024], {3, 4, 5}),  # three kinds: the prime core alone would be too little
        ([1024] * 4, {0, 1, 2, 3}),  # a Raspberry Pi
    ],
)
def test_arm_big_little(capacities: list[int], fast: set[int], tmp_path: Path) -> None:
    root = tree(tmp_path, {f"{CPU}/cpu{i}/cpu_capacity": str(c) for i, c in enumerate(capacities)})
    assert cores.fast_cpus(set(range(len(capacities))), root) == fast
    assert cores.fast_cpus({0}, root) == {0}


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i % 2},{i % 2 + 2}" for i in range(4)})
    assert cores.one_of_each_core({0, 1, 2, 3}, root) == {0, 1}
    assert cores.one_of_each_core({2, 3}, root) == {2, 3}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),  # inside a container
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "2000 1000", "sys/fs/cgroup/a/b/cpu.max": "max 1000"}, 2),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/a/b/cpu.max": "3 1"}, 3),
        ({"proc/self/cgroup": "0::/../x", "sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/docker/1",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            math.inf,
        ),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "nonsense"}, math.inf),
    ],
)
def test_limits_of_control_groups(files: dict[str, str], quota: float, tmp_path: Path) -> None:
    assert cores.cpu_quota(tree(tmp_path, files)) == quota


def test_the_smallest_limit_counts_and_one_is_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(cores, "allowed_cpus", lambda: set(range(8)))
    assert cores.usable_cores(tmp_path) == 8
    tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"})
    assert cores.usable_cores(tmp_path) == 3
    tree(tmp_path, {"sys/fs/cgroup/cpu.max": "10000 100000"})
    assert cores.usable_cores(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks")
def test_the_affinity_mask_is_respected() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
