"""The core names no backend: what it has to know of one the backend says itself."""
import ast
from collections.abc import Iterator
from pathlib import Path

import rwkv_edge

CORE = Path(rwkv_edge.__file__).parent
OURS = {"cpu", "webgpu", "opencl", "numpy"}
OTHER_MEANINGS = {"compat/model.py": {"cpu"}}  # torch's word for where a layer is, which scripts for the `rwkv` package read


def names(source: str) -> Iterator[str]:
    """Strings that are a backend's name and nothing else."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return (value for value in strings if isinstance(value, str) and value in OURS)


def test_a_name_is_seen_wherever_it_stands() -> None:
    assert list(names('"""cpu is fast"""\norder = ("cpu", f(x["numpy"]))\nhelp = "as cpu does"')) == ["cpu", "numpy"]


def test_no_string_of_the_core_is_a_backend() -> None:
    found = {path.relative_to(CORE).as_posix(): set(names(path.read_text(encoding="utf-8"))) for path in CORE.rglob("*.py")}
    assert {path: strings for path, strings in found.items() if strings} == OTHER_MEANINGS
