"""Imports go one way: pyproject.toml says which, `lint-imports` checks it; here is what that cannot see."""
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from typing import Any

import pytest

PACKAGES = "rwkv_edge", "rwkv_edge_numpy", "rwkv_edge_cpu", "rwkv_edge_device", "rwkv_edge_webgpu", "rwkv_edge_opencl"


@pytest.fixture(scope="module")
def graph() -> Any:
    return pytest.importorskip("grimp").build_graph(*PACKAGES, cache_dir=None)


def test_no_file_imports_another_that_imports_it(graph: Any) -> None:
    """A package's own file and those in it included; imports in functions, and for types, too."""
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_the_graph_has_every_import(graph: Any) -> None:
    """What the other test would not see, were it empty or blind to some."""
    imports = [
        ("rwkv_edge.model", "rwkv_edge.weights"),  # only for types
        ("rwkv_edge.model", "rwkv_edge.ingest"),  # in a function
        ("rwkv_edge_cpu", "rwkv_edge_cpu.run.executable"),  # in a function, and in the package's own file
        ("rwkv_edge_webgpu", "rwkv_edge_device.backend"),  # of another package
    ]
    assert all(imported in graph.find_modules_directly_imported_by(importer) for importer, imported in imports)


def modules_behind(statement: str) -> Iterator[str]:
    """The names of all modules that a new process has loaded after it."""
    program = f"import sys; {statement}; print(*sys.modules)"
    return iter(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_a_model_is_imported_without_what_opens_and_runs_one() -> None:
    ours = {"arch", "auto", "chat", "convert", "ingest", "plan", "quant", "registry", "strategy", "weights"}
    others = {"numba", "llvmlite", "wgpu", "pyopencl", "numpy.random", "asyncio", "logging", "hashlib"}
    loaded = set(modules_behind("from rwkv_edge import Model"))
    assert "rwkv_edge.model" in loaded
    assert loaded & (others | {f"rwkv_edge.{name}" for name in ours}) == set()
