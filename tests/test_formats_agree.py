"""The same tiny checkpoint gives the same logits whatever file it comes in."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from tests.checkpoints.gguf import write_gguf
from tests.checkpoints.pth import write_pth
from tests.checkpoints.rwkvcpp import write_rwkvcpp
from tests.checkpoints.safetensors import write_safetensors
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.conftest import DEVICE_BACKENDS

Writer = Callable[[Path, str], None]

WRITERS: dict[str, tuple[tuple[str, ...], Writer]] = {
    "pth bf16": (VERSIONS, lambda path, v: write_pth(path, tiny(v), dtype="bf16")),
    "pth f32": (VERSIONS, lambda path, v: write_pth(path, tiny(v), dtype="f32")),
    "safetensors": (VERSIONS, lambda path, v: write_safetensors(path, tiny(v), naming="original")),
    "hf": (("4", "5.2", "6"), lambda path, v: write_safetensors(path, tiny(v), naming="hf")),
    "fla": (("7",), lambda path, v: write_safetensors(path, tiny(v), naming="fla")),
    "web-rwkv": (("4", "5.2", "6", "7"), lambda path, v: write_safetensors(path, tiny(v), naming="web_rwkv", dtype="f32")),
    "gguf f32": (("6", "7"), lambda path, v: write_gguf(path, tiny(v), type="f32")),
    "gguf bf16": (("6", "7"), lambda path, v: write_gguf(path, tiny(v), type="bf16")),
    "gguf rescaled": (("6",), lambda path, v: write_gguf(path, tiny(v), type="f32", rescale_every=2)),
    "rwkv.cpp": (VERSIONS, lambda path, v: write_rwkvcpp(path, tiny(v), type="f32")),
}
# A device sees tensors, not files: of each file format one version says what formats and layouts it leads to.
CASES = [
    *((backend, name, v) for backend in ("numpy", "cpu") for name, (versions, _) in WRITERS.items() for v in versions),
    *((backend, name, versions[-1]) for backend in DEVICE_BACKENDS for name, (versions, _) in WRITERS.items()),
]


@pytest.mark.parametrize(("backend_name", "name", "version"), CASES, indirect=["backend_name"])
def test_logits_do_not_depend_on_the_file_format(
    backend_name: str, name: str, version: str, tiny_pth: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    WRITERS[name][1](path, version)
    tokens = [1, 5, 96, 0, 33, 33, 7]
    with Model(tiny_pth(version), "numpy fp64") as model:
        expected, _ = model.forward(tokens, full=True)
        names = model.fingerprint
    with Model(path, backend_name) as model:
        logits, _ = model.forward(tokens, full=True)
        assert model.fingerprint == names
    assert np.abs(logits - expected).max() < 1e-4
