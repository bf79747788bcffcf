"""OpenCL: which device, and what its failures say: made-up platforms, and failures put into a real one."""
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rwkv_edge_device.features import with_features
from rwkv_edge_device.found import choose
from rwkv_edge_device.source import Sources
from rwkv_edge_opencl import OpenClBackend, backend, devices, features

from rwkv_edge import BackendError, StrategyError, auto, registry
from rwkv_edge.backend import Availability, Batch
from rwkv_edge.strategy import FallbackWarning, compiled, parse
from tests.conftest import need_backend
from tests.cpu.plans import deep_plan

GPU, CPU, ACCELERATOR = 1 << 2, 1 << 1, 1 << 3


@pytest.fixture
def cl() -> Any:
    return pytest.importorskip("pyopencl")


@pytest.fixture
def opencl() -> OpenClBackend:
    need_backend("opencl")
    return backend


class FakeDevice:
    driver_version = "1.0"
    available = compiler_available = endian_little = True
    local_mem_size = 32768
    global_mem_size = 1 << 30
    extensions = ""
    subgroups: int | Exception = 0

    def __init__(self, name: str, type: int = GPU, unified: bool = False, version: str = "OpenCL 3.0 x", **more: Any) -> None:
        self.name, self.type, self.host_unified_memory, self.version = name, type, unified, version
        self.max_work_group_size = 256
        vars(self).update(more)

    def get_info(self, what: int) -> int:
        assert what == features.MAX_SUBGROUPS
        if isinstance(self.subgroups, Exception):
            raise self.subgroups
        return self.subgroups


class FakePlatform:
    version = "OpenCL 3.0 LLVM 18"

    def __init__(self, name: str, *found: FakeDevice, fails: Exception | None = None) -> None:
        self.name, self.found, self.fails = name, found, fails

    def get_devices(self) -> list[FakeDevice]:
        if self.fails:
            raise self.fails
        return list(self.found)


def failure(cl: Any, name: str, kind: str = "RuntimeError") -> Exception:
    """What pyopencl raises for a code of OpenCL's."""
    error: Exception = getattr(cl, kind)(cl._cl._ErrorRecord("", getattr(cl.status_code, name), "clSomething"))
    return error


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.fixture
def machine(cl: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """machine(platform, ...): a machine with these."""
    return lambda *platforms: monkeypatch.setattr(cl, "get_platforms", lambda: list(platforms))


BOARD = (
    FakePlatform("Pocl", FakeDevice("Cortex-A76", CPU)),
    FakePlatform("ARM", FakeDevice("Mali-G610", unified=True), FakeDevice("Radeon RX"), FakeDevice("Radeon RX")),
    FakePlatform("Clover", FakeDevice("Radeon RX"), FakeDevice("Stick", ACCELERATOR)),
)


def test_devices_are_sorted_and_listed_once_with_the_cpu_last(machine: Callable[..., None]) -> None:
    machine(*BOARD)
    assert [(d.name, d.kind, d.api) for d in devices.found()] == [
        ("Radeon RX", "discrete", "ARM"), ("Radeon RX #2", "discrete", "ARM"), ("Mali-G610", "integrated", "ARM"),
        ("Stick", "other", "Clover"), ("Cortex-A76", "software", "Pocl"),
    ]


@pytest.mark.parametrize(
    ("which", "name"),
    [(None, "Radeon RX"), ("1", "Radeon RX #2"), ("mali", "Mali-G610"), ("4", "Cortex-A76"), ("cortex", "Cortex-A76"),
     ("integrated", "Mali-G610"), ("clover", "Stick"), ("pocl", "Cortex-A76")],
)  # fmt: skip
def test_a_device_is_chosen(machine: Callable[..., None], which: str | None, name: str) -> None:
    machine(*BOARD)
    assert choose(devices.found(), which, "device").name == name


def test_a_device_that_is_not_there(machine: Callable[..., None]) -> None:
    machine(*BOARD[:1])
    with pytest.raises(BackendError, match=r"no OpenCL device is 'nvidia'; there are 0: Cortex-A76 \(software, Pocl\)"):
        OpenClBackend().select("nvidia")
    with pytest.raises(StrategyError, match=r'strategy "opencl:4 fp16", character 8: no OpenCL device is .4.; there are 0'):
        compiled(deep_plan(), parse("opencl:4 fp16"))


@pytest.mark.parametrize(
    "lacks",
    [{"version": "OpenCL 1.1 old"}, {"available": False}, {"compiler_available": False}, {"max_work_group_size": 64},
     {"local_mem_size": 8192}, {"endian_little": False}],
)  # fmt: skip
def test_devices_that_can_do_too_little_are_left_out(machine: Callable[..., None], lacks: dict[str, Any]) -> None:
    machine(FakePlatform("Old", FakeDevice("Old", **lacks)))
    assert devices.found() == []


def test_a_machine_without_a_driver(cl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cl, "get_platforms", raising(failure(cl, "PLATFORM_NOT_FOUND_KHR", "LogicError")))
    availability = backend.availability()
    assert not availability.available
    assert "apt install pocl-opencl-icd" in availability.reason
    with pytest.raises(BackendError, match="no OpenCL device was found"):
        backend.compile(deep_plan())


def test_a_driver_that_fails(cl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cl, "get_platforms", raising(failure(cl, "OUT_OF_HOST_MEMORY", "MemoryError")))
    assert "pyopencl cannot be used (OUT_OF_HOST_MEMORY - clSomething)" in backend.availability().reason


def test_a_platform_without_devices_hides_no_other(cl: Any, machine: Callable[..., None]) -> None:
    machine(FakePlatform("Empty", fails=failure(cl, "DEVICE_NOT_FOUND")), *BOARD[:1])
    assert [device.name for device in devices.found()] == ["Cortex-A76"]


def test_a_device_that_does_not_answer_hides_no_other(cl: Any, machine: Callable[..., None]) -> None:
    class Silent(FakeDevice):
        @property
        def version(self) -> str:
            raise failure(cl, "OUT_OF_HOST_MEMORY", "MemoryError")

        @version.setter
        def version(self, _: str) -> None: ...

    machine(FakePlatform("Broken", Silent("Silent"), FakeDevice("Mali-G610")), *BOARD[:1])
    assert [device.name for device in devices.found()] == ["Mali-G610", "Cortex-A76"]


def test_another_compiler_below_the_same_driver_is_tested_anew(machine: Callable[..., None]) -> None:
    drivers = set()
    for version in ("OpenCL 3.0 PoCL 6.0 LLVM 18", "OpenCL 3.0 PoCL 6.0 LLVM 19"):
        machine(platform := FakePlatform("Pocl", FakeDevice("Cortex-A76", CPU)))
        platform.version = version
        drivers.add(devices.found()[0].driver)
    assert len(drivers) == 2


def test_a_machine_without_pyopencl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_edge_device.backend.find_spec", lambda name: None)
    assert backend.availability().reason == "pyopencl is not installed: pip install 'rwkv-edge[opencl]'"


def test_a_pyopencl_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    monkeypatch.setattr("rwkv_edge_device.backend.find_spec", lambda name: object())
    assert "pyopencl cannot be used" in backend.availability().reason


def only_opencl_or_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "webgpu"):
        monkeypatch.setattr(type(registry.load(name)), "availability", lambda self: Availability(False, "not here"))
    monkeypatch.setattr(OpenClBackend, "availability", OPENCL_AVAILABILITY)


OPENCL_AVAILABILITY = OpenClBackend.availability


def test_auto_never_takes_the_cpu_under_another_name(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    only_opencl_or_numpy(monkeypatch)
    machine(*BOARD[:1])
    assert backend.availability().available
    assert auto.best().name == "numpy"
    machine(*BOARD)
    assert auto.best().name == "opencl"


def test_auto_goes_on_with_a_notice(machine: Callable[..., None], cl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_opencl_or_numpy(monkeypatch)
    machine(*BOARD)
    monkeypatch.setattr(cl, "Context", raising(failure(cl, "OUT_OF_RESOURCES")))
    with pytest.warns(FallbackWarning, match="numpy backend: Radeon RX cannot be opened: OUT_OF_RESOURCES"):
        chosen = compiled(deep_plan(), parse("auto"))
    assert chosen.name == "numpy"
    chosen.executable.close()
    with pytest.raises(BackendError, match="Radeon RX cannot be opened"):
        compiled(deep_plan(), parse("opencl"))


# ---- a real device that fails


@pytest.mark.parametrize("code", ["MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_HOST_MEMORY", "OUT_OF_RESOURCES"])
def test_out_of_memory(opencl: OpenClBackend, cl: Any, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opencl.compile(deep_plan()).close()
    monkeypatch.setattr(cl, "Buffer", raising(failure(cl, code, "MemoryError")))
    with pytest.raises(BackendError, match=r"is out of memory: it has no .* MB for vectors"):
        opencl.compile(deep_plan())


def test_more_than_the_device_has(opencl: OpenClBackend) -> None:
    """All models on it count; what is closed or gone does not."""
    one, other = (opencl.compile(deep_plan()) for _ in range(2))
    first, second = one.driver, other.driver  # type: ignore[attr-defined]
    first._most = first.live + second.live + 1000
    first.allocate(992, "more")
    with pytest.raises(BackendError, match=r"is out of memory: it has no 0.0 MB for more"):
        first.allocate(992, "more")
    other.close()
    first.allocate(992, "more")
    one.close()
    assert first.live == second.live == 0


@pytest.mark.parametrize("unified", [True, False])
def test_data_goes_there_and_back(opencl: OpenClBackend, cl: Any, unified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through mapped memory where the device has the host's: there much is never copied by the driver."""
    driver: Any = opencl.open(opencl.found()[0])
    driver._unified = unified
    small, large = np.arange(100, dtype=np.float32), np.arange(100_000, dtype=np.float32).reshape(100, 1000)
    memory = driver.allocate(1 << 20, "data")
    driver.write(memory, 64, small)
    refused = "enqueue_copy" if unified else "enqueue_map_buffer"
    monkeypatch.setattr(cl, refused, lambda *_, **__: pytest.fail(f"{refused} for much data"))
    driver.write(memory, 512, large)
    with driver.filling(memory, 16, 8) as out:
        out[:] = range(1, 9)
    found = np.zeros((1 << 18,), np.float32)
    driver.read(memory, 0, found)
    assert found[4:6].view(np.uint8).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not found[6:16].any()
    np.testing.assert_array_equal(found[16:116], small)
    np.testing.assert_array_equal(found[128 : 128 + large.size], large.reshape(-1))
    assert not found[128 + large.size :].any()
    assert driver.waited > 0
    driver.close()


def test_memory_is_unmapped_after_an_interrupt(opencl: OpenClBackend) -> None:
    driver: Any = opencl.open(opencl.found()[0])
    memory = driver.allocate(64, "data")
    with pytest.raises(KeyboardInterrupt), driver.filling(memory, 0, 64):
        raise KeyboardInterrupt
    driver.write(memory, 0, np.ones(16, np.float32))
    driver.read(memory, 0, found := np.zeros(16, np.float32))
    assert (found == 1).all()
    driver.close()


def test_a_device_that_is_lost(opencl: OpenClBackend, cl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = deep_plan()
    executable: Any = opencl.compile(plan)
    state = np.zeros(plan.state_size, np.float32)
    batch = Batch(np.array([1, 2], np.int32), [2], [state], np.array([1], np.int32))
    executable.run(batch)
    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", raising(failure(cl, "OUT_OF_RESOURCES")))
    for name in ("enqueue_copy", "enqueue_map_buffer"):
        monkeypatch.setattr(cl, name, raising(failure(cl, "INVALID_COMMAND_QUEUE", "LogicError")))
    with pytest.raises(BackendError, match="was lost; open the model again, or use the cpu backend"):
        executable.run(batch)
    executable.close()
    with pytest.raises(BackendError, match="the state was lost"):
        executable.fetch(state)
    monkeypatch.undo()
    again: Any = opencl.compile(plan)
    assert again.driver._opened is not executable.driver._opened
    again.run(batch)
    again.close()


def test_a_launch_that_is_refused(opencl: OpenClBackend, cl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = opencl.compile(plan := deep_plan())
    batch = Batch(np.array([1], np.int32), [1], [np.zeros(plan.state_size, np.float32)], np.array([0], np.int32))
    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", raising(failure(cl, "INVALID_WORK_GROUP_SIZE", "LogicError")))
    with pytest.raises(BackendError, match="did not run the kernels: INVALID_WORK_GROUP_SIZE"):
        executable.run(batch)
    executable.close()


def test_a_compiler_that_rejects_a_kernel(opencl: OpenClBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when a model opens, so that `auto` can go on."""
    opencl.compile(deep_plan()).close()
    right = Sources.assemble
    monkeypatch.setattr(Sources, "assemble", lambda self, kernel: right(self, kernel).replace("kernel __attr", "kernel !attr"))
    with pytest.raises(BackendError, match=r"the OpenCL compiler of .* rejects a kernel \(\w+.*\): .*error: ") as told:
        opencl.compile(deep_plan())
    assert "\n" not in str(told.value)
    only_opencl_or_numpy(monkeypatch)
    monkeypatch.setattr(OpenClBackend, "availability", lambda self: Availability(True))
    with pytest.warns(FallbackWarning, match="running on the numpy backend: the OpenCL compiler of .* rejects a kernel"):
        chosen = compiled(deep_plan(), parse("auto"))
    assert chosen.name == "numpy"
    chosen.executable.close()


def test_a_kernel_with_too_few_threads(opencl: OpenClBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    from rwkv_edge_opencl import opened

    class Kernel:
        def __init__(self, *_: Any) -> None: ...

        def get_work_group_info(self, what: int, _: Any) -> Any:
            return [64, 1, 1] if what == opened.cl.kernel_work_group_info.COMPILE_WORK_GROUP_SIZE else 32

    opencl.compile(deep_plan()).close()
    monkeypatch.setattr(opened.cl, "Kernel", Kernel)
    with pytest.raises(BackendError, match=r"runs a kernel \(\w+\) with 32 threads, which needs 64"):
        opencl.compile(deep_plan())


@pytest.mark.parametrize("writable", [True, False])
def test_binaries_are_kept_where_they_can(
    opencl: OpenClBackend, writable: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By pyopencl, for drivers that do not do so themselves."""
    (file := tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache" if writable else file / "below"))
    monkeypatch.setattr("pyopencl.characterize.has_src_build_cache", lambda device: False)
    from rwkv_edge_opencl.opened import Opened

    opened = Opened(opencl.found()[0])
    for _ in range(2):
        opened._compiled("kernel __attribute__((reqd_work_group_size(1, 1, 1))) void run(global int *x) { *x = 1; }")
    assert bool(list(tmp_path.glob("cache/**/binary"))) == writable


def test_kernels_need_no_extension() -> None:
    for path in backend.sources.folder.glob("*.cl"):
        plain = with_features(path.read_text(encoding="utf-8"), ())
        assert not re.search(r"#pragma OPENCL EXTENSION|\b(double|dot_4x8\w+|(get_)?sub_group\w*)\b", plain)


def test_what_a_device_offers(cl: Any) -> None:
    asked_too_much = failure(cl, "INVALID_VALUE")
    devices = {
        FakeDevice("old", version="OpenCL 1.2 x", subgroups=asked_too_much): (),
        FakeDevice("Gen9", version="OpenCL 2.1 x", extensions="cl_x cl_intel_subgroups"): ("subgroup",),
        FakeDevice("new", subgroups=64, extensions="cl_khr_integer_dot_product"): ("subgroup", "packed_dot"),
    }
    for device, expected in devices.items():
        assert features.offered(device) == expected
    old, second, third = devices
    assert [features.standard(device, ["subgroup"]) for device in (second, third)] == ["-cl-std=CL2.0", "-cl-std=CL3.0"]
    assert features.standard(old, []) == features.standard(third, []) == "-cl-std=CL1.2"


def test_what_a_compiler_does_not_know_is_left_alone(opencl: OpenClBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the device says."""
    from rwkv_edge_opencl.opened import Opened

    monkeypatch.setitem(features.PROBES, "packed_dot", "kernel void run(global int *x) { x[0] = no_such_function(x[1]); }")
    says = replace(opencl.found()[0], features=("packed_dot",))
    assert Opened(says).features == ()
