"""Where compiled code is kept: never a directory of somebody else's, and never a reason to fail."""
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rwkv_edge_cpu import backend
from rwkv_edge_cpu.code import cache
from rwkv_edge_cpu.code.machine_code import image_name, kernel_name
from rwkv_edge_cpu.code.target import available

from rwkv_edge.machine import user_cache

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
RUN = """
import numpy as np
from rwkv_edge.backend import Batch, CompileOptions
from rwkv_edge.plan import PlanBuilder
from rwkv_edge.weights.tensor import Tensor
from rwkv_edge_cpu import backend
p = PlanBuilder()
x = p.embed(Tensor("w", (2, 3), "f32", np.ones((2, 3), np.float32)))
batch = Batch(np.zeros(1, np.int32), [1], [np.zeros(0, np.float32)], np.zeros(0, np.int32))
print(backend.compile(p.finish(x), CompileOptions(threads=1)).run(batch)[0])
"""
WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None  # importing them raises ImportError
"""


def run(program: str = RUN, **environment: str) -> str:
    """The output of a process with only these variables set."""
    kept = {name: os.environ[name] for name in ("PATH", "QEMU_CPU", "SYSTEMROOT", "TEMP") if name in os.environ}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    command, variables = [sys.executable, "-c", program], kept | paths | environment
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.kept"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which a process kept what it compiled; for copies."""
    folder = tmp_path_factory.mktemp("compiled")
    run(RWKV_EDGE_CACHE=str(folder))
    return folder


def test_importing_the_library_and_the_backend_loads_neither_numba_nor_llvmlite() -> None:
    program = "import sys, rwkv_edge, rwkv_edge_cpu; print({'numba', 'llvmlite'} & set(sys.modules))"
    assert run(program).strip() == "set()"


def test_later_processes_run_without_numba_and_llvmlite(compiled: Path) -> None:
    assert "[1. 1. 1.]" in run(WITHOUT_NUMBA + RUN, RWKV_EDGE_CACHE=str(compiled))


def test_code_is_kept_where_the_variable_says_and_used_again(tmp_path: Path) -> None:
    assert "[1. 1. 1.]" in run(RWKV_EDGE_CACHE=str(tmp_path / "mine"))
    first = files(tmp_path)
    assert first
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.kept"))]
    assert "[1. 1. 1.]" in run(RWKV_EDGE_CACHE=str(tmp_path / "mine"))
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.kept"))] == stamps


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG variables")
def test_the_users_cache_directory_is_the_default(tmp_path: Path) -> None:
    run(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert files(tmp_path / "xdg" / "rwkv_edge")
    (tmp_path / "home").mkdir()
    run(HOME=str(tmp_path / "home"))
    assert files(tmp_path / "home" / ".cache" / "rwkv_edge")


@posix
def test_without_a_home_the_temporary_directory_is_used_and_no_home_is_made(tmp_path: Path) -> None:
    run(HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path))
    assert not (tmp_path / "home").exists()
    private = tmp_path / f"rwkv_edge-{os.getuid()}"
    assert files(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@posix
def test_a_file_in_the_way_and_no_place_at_all_only_cost_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = str(tmp_path / "file" / "x")
    assert "[1. 1. 1.]" in run(HOME=blocked, RWKV_EDGE_CACHE=blocked, XDG_CACHE_HOME=blocked, TMPDIR="/proc")


@posix
def test_a_full_disk_only_costs_time(tmp_path: Path) -> None:
    full = """
import pathlib
def no_space(self, data):
    with self.open("wb") as file:
        file.write(data[:10])
    raise OSError(28, "No space left on device")
pathlib.Path.write_bytes = no_space
"""
    assert "[1. 1. 1.]" in run(full + RUN, RWKV_EDGE_CACHE=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["zeros", "cut", "one bit", "another's"])
def test_damaged_files_are_replaced(damage: str, compiled: Path, tmp_path: Path) -> None:
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    paths = sorted(tmp_path.rglob("*.kept"))
    whole = [path.read_bytes() for path in paths]
    assert len(whole) >= 3
    for i, path in enumerate(paths):
        data = whole[i]
        last = bytes([data[-1] ^ 1])
        changed = {"zeros": bytes(len(data)), "cut": data[:-40], "one bit": data[:-1] + last, "another's": whole[i - 1]}
        path.write_bytes(changed[damage])
    assert "[1. 1. 1.]" in run(RWKV_EDGE_CACHE=str(tmp_path))
    assert [path.read_bytes() for path in paths] == whole


def test_processes_at_once_share_a_cache(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert all("[1. 1. 1.]" in out for out in pool.map(lambda _: run(RWKV_EDGE_CACHE=str(tmp_path)), range(3)))
    assert "[1. 1. 1.]" in run(WITHOUT_NUMBA + RUN, RWKV_EDGE_CACHE=str(tmp_path))


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_can_write_is_not_used(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    monkeypatch.setenv(user_cache.OVERRIDE, str(shared))
    found = cache.cache_directory()
    assert found is None or shared not in found.parents


@posix
def test_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path / "link"))
    found = cache.cache_directory()
    assert found is None or tmp_path / "link" not in found.parents


@posix
def test_a_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    (tmp_path / "theirs").mkdir(mode=0o700)
    if mine == 0:
        os.chown(tmp_path / "theirs", 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert not cache._make_private(tmp_path / "theirs")


@posix
def test_a_full_directory_that_cannot_be_written_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path / "image"))
    monkeypatch.setattr(cache, "_can_write", lambda path: "image" not in path.parts)
    assert cache.cache_directory() != tmp_path / "image" / f"{cache.PREFIX}{cache._version_name()}"
    made = tmp_path / "image" / f"{cache.PREFIX}{cache._version_name()}"
    (made / "a kernel").write_bytes(b"")
    assert cache.cache_directory() == made


def test_old_versions_are_removed_but_not_the_newest_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(user_cache.OVERRIDE, str(tmp_path))
    old = time.time() - 100 * 24 * 3600
    for i in range(6):
        (tmp_path / f"{cache.PREFIX}{i}").mkdir()
        os.utime(tmp_path / f"{cache.PREFIX}{i}", (old + i, old + i))
    (tmp_path / "something else").mkdir()
    current = cache.cache_directory()
    assert current is not None
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {current.name, "something else", *(f"{cache.PREFIX}{i}" for i in (3, 4, 5))}


def test_another_version_of_the_sources_has_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "code").mkdir(parents=True)
    (package / "code" / "cache.py").write_text("1")
    monkeypatch.setattr(cache, "__file__", str(package / "code" / "cache.py"))
    first = cache._version_name()
    (package / "kernel.py").write_text("2")
    assert cache._version_name() != first


def test_another_machine_has_another_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache._version_name()
    monkeypatch.setattr(cache, "identity", lambda: "another machine")
    assert cache._version_name() != first


def test_code_for_several_instruction_sets_lies_side_by_side(tmp_path: Path) -> None:
    best, *_, generic = available()
    for name in (best, generic):
        assert "[1. 1. 1.]" in run(RWKV_EDGE_CACHE=str(tmp_path), RWKV_EDGE_ISA=name)
    assert len(list(tmp_path.iterdir())) == 1
    embed = kernel_name("kernels.rows.embed")
    assert {f"{image_name(embed, available()[name])}.kept" for name in (best, generic)} <= set(files(tmp_path))
    for name in (best, generic):
        assert "[1. 1. 1.]" in run(WITHOUT_NUMBA + RUN, RWKV_EDGE_CACHE=str(tmp_path), RWKV_EDGE_ISA=name)


def test_the_key_covers_sources_in_folders_below() -> None:
    assert {"arithmetic.py", "formats.py", "interpreter.py"} <= {path.name for path in cache._sources()}
