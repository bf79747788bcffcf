"""A file is there when it is complete; until then, and when anything fails, what was there before."""
import errno
import os
import shutil
import signal
import subprocess
import sys
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


KILLED = """
import os, signal, sys
from pathlib import Path
from rwkv_edge.convert.replacing import replacing
with replacing(Path(sys.argv[1]), 3) as file:
    file.write(b"ne")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False).returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".other.1.part").write_bytes(b"another file's")
    with replacing(target, 3) as file:
        file.write(b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.1.part", "out"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "out", 3) as file:
        [temporary] = tmp_path.iterdir()
        other = temporary.rename(tmp_path / ".out.1.part")  # as another process would have called it
        with replacing(tmp_path / "out", 3) as second:
            second.write(b"2nd")
        other.rename(temporary)
        file.write(b"1st")
    assert (tmp_path / "out").read_bytes() == b"1st"
