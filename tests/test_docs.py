"""The examples in docs/ run, in the order of their page, and print what stands below them."""
import re
from pathlib import Path
from typing import Any

import pytest

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("embedding.md", "chat.md")]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run_and_print_what_is_below_them(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    text, printed, examples = page.read_text(), "", 0
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        if kind == "text":
            assert printed == code, f"{page.name}, after example {examples}"
            continue
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + code, page, "exec"), names)
        printed, examples = capsys.readouterr().out, examples + 1
    assert examples >= 5
