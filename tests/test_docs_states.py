"""docs/states.md: its examples run as they stand, one after the other, on the bundled model."""
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkv_edge import Model
from rwkv_edge.cli import main
from rwkv_edge.demo import MODEL_PATH
from tests.checkpoints.pth import write_pth
from tests.conftest import need_backend

PAGE = Path(__file__).parent.parent / "docs" / "states.md"
SNIPPET = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prepare(folder: Path) -> None:
    """The files that the page speaks of."""
    (folder / "model.pth").symlink_to(MODEL_PATH)
    (folder / "book.txt").write_text("def add(a, b):\n    return a + b\n" * 50)
    with Model(MODEL_PATH, "numpy") as model:
        n_embd, heads, size = model.shape.n_embd, model.shape.n_head, model.shape.head_size
        layers = range(model.shape.n_layer)
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * 0.01).astype(np.float32)

    tuned = {f"blocks.{i}.att.time_state": draw(heads, size, size) for i in layers}
    write_pth(folder / "tuned.pth", tuned, dtype="f32")
    lora = {f"blocks.{i}.att.key.lora_A": draw(4, n_embd) for i in layers}
    lora |= {f"blocks.{i}.att.key.lora_B": draw(n_embd, 4) for i in layers}
    write_pth(folder / "lora.pth", lora, dtype="f32")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need_backend("cpu")
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    assert len(snippets) == 8
    for language, code in snippets:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "rwkv-edge"
            assert main(arguments) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert re.search(r"^<State of rwkv7-\S+: \d+ tokens seen, [\d.]+ MB>$", out, re.MULTILINE)
    assert re.search(r"^book\.state: 1600 tokens, ", out, re.MULTILINE)
