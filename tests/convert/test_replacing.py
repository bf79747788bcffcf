"""A file is there when it is complete; until then, and when anything fails, what was there before."""
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.convert.replacing import replacing
from rwkv_edge.errors import OutputError


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with replacing(target, 3) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_is_left_when_it_fails(error: Any, tmp_path: Path) -> None:
    def write_half() -> None:
        with replacing(tmp_path / "out", 3) as file:
            file.write(b"ne")
            raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else error):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"out: cannot be written: no space left"), replacing(tmp_path / "out", 3) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2e6, 1e6, 1e6))
    with pytest.raises(OutputError, match="needs 3 MB, but the disk has 1 MB free"), replacing(tmp_path / "out", 3_000_000):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == []


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replacing(tmp_path / "link", 3) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("path", "message"),
    [("no/such/out", "cannot be written: no such file or directory"), ("folder", "is a directory"), ("pipe", "a special file")],
)
def test_a_place_that_cannot_be_written_is_told(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=message), replacing(tmp_path / path, 3):
        raise AssertionError("not reached")
