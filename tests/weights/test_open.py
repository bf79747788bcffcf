"""Opening: by content, in no time, in no memory, and with a useful word about files that are something else."""
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.open_file import pth_pieces, write_sparse
from rwkv_edge.errors import ModelFileError
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.weights import open_weights, read_raw
from tests.checkpoints.pth import write_pth
from tests.checkpoints.safetensors import file_bytes, write_safetensors
from tests.checkpoints.tiny import tiny
from tests.weights.mutation import must_refuse


@pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors", ".bin", ".gguf", ".st"])
def test_the_format_is_told_by_content_not_by_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    assert open_weights(write_pth(path, tiny("7"))).source == "pth"
    path.unlink()
    assert open_weights(write_safetensors(path, tiny("7"))).source == "safetensors"


def test_a_path_may_be_text(tmp_path: Path) -> None:
    assert open_weights(str(write_pth(tmp_path / "model.pth", tiny("4")))).path == tmp_path / "model.pth"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"\x80\x04N.", "bare pickle"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello", "does not begin like"),
        (b"\0" * 1000, "does not begin like"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert problem in must_refuse(read_raw, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in must_refuse(read_raw, tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["nul\0byte", "x" * 5000])
def test_impossible_paths_are_refused(name: str) -> None:
    with pytest.raises(ModelFileError):
        read_raw(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.pth"
    os.mkfifo(path)
    assert "special file" in must_refuse(read_raw, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_beside_the_model_is_refused_too(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", tiny("7"))
    os.mkfifo(tmp_path / "config.json")
    assert "config.json: is a special file, expected a JSON file" in must_refuse(read_raw, tmp_path)


def test_small_files_are_read_up_to_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_small_file(path, 5, "a text") == b"12345"
    with pytest.raises(ModelFileError, match="larger than 4 bytes, expected a text"):
        read_small_file(path, 4, "a text")


COLD = """
import mmap, os, resource, sys
from pathlib import Path
from rwkv_edge.weights import zip_directory
from rwkv_edge.machine.mapping import map_file
def waits():
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
path = Path(sys.argv[1])
file = path.open("rb")
os.fsync(file.fileno())
os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
middle = os.fstat(file.fileno()).st_size // 2 // mmap.PAGESIZE * mmap.PAGESIZE
view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
view.madvise(mmap.MADV_WILLNEED, middle, 1)
before = waits()
view[middle]
control, before = waits() - before, waits()
zip_directory.read_directory(path, map_file(path))
print(control, waits() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops a file from the system's cache")
def test_a_file_not_in_memory_is_not_waited_for_once_per_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_sparse(path, pth_pieces({f"x{i}": (16 << 20,) for i in range(64)}))  # 32 MiB each, more than any read-ahead
    done = subprocess.run([sys.executable, "-c", COLD, str(path)], capture_output=True, text=True, check=True)
    control, waits = map(int, done.stdout.split())
    if control:
        pytest.skip("this system reads nothing ahead when told to")
    assert waits < 16


LIMITED = """
import resource, sys
from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights import read_raw
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        read_raw(path)
    except ModelFileError as error:
        print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its own address space")
def test_files_that_claim_terabytes_are_refused_within_little_memory(tmp_path: Path) -> None:
    claims: dict[str, Callable[[Path], object]] = {
        "header.st": lambda p: p.write_bytes((1 << 42).to_bytes(8, "little") + b"{" + b" " * 100),
        "shape.st": lambda p: p.write_bytes(
            file_bytes('{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', b"")
        ),
        "zip.pth": lambda p: p.write_bytes(b"PK\3\4" + b"\0" * 40 + b"PK\5\6" + b"\0" * 4 + b"\xff" * 12 + b"\0\0"),
    }
    for name, write in claims.items():
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name in claims]
    done = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == paths
