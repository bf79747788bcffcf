"""What was found out about a device is of use for the code that it was found out with."""
from pathlib import Path

import pytest
from rwkv_edge_device import source
from rwkv_edge_device.source import Sources


@pytest.mark.parametrize("changed", ["backend/kernels/dot.cl", "backend/driver.py", "package/packing.py"])
def test_a_change_of_kernels_or_of_what_writes_them(changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "PACKAGE", tmp_path / "package")
    sources = Sources(tmp_path / "backend" / "kernels", "cl", "")
    for name in ("backend/kernels/dot.cl", "backend/driver.py", "backend/notes.txt", "package/packing.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    before = sources.digest()
    (tmp_path / "backend/notes.txt").write_text("after")
    assert sources.digest() == before
    (tmp_path / changed).write_text("after")
    assert sources.digest() != before
