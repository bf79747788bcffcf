"""The examples in docs/ run, in the order of their page, and print what stands below them; links lead to what is there."""
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("embedding.md", "chat.md")]
ALL_PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/README.md"))]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
NAMED_ROOM = re.compile(r"`([a-z_]+/(?:[a-z_0-9]+\.py)?)`")


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


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("house", ["rwkv_edge", "backends"])
def test_the_rooms_that_a_house_names_are_there(house: str) -> None:
    named = NAMED_ROOM.findall((ROOT / house / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 5
    there = [path.relative_to(ROOT).as_posix() + "/" * path.is_dir() for path in (ROOT / house).rglob("*")]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []
