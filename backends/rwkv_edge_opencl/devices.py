"""The OpenCL devices of this machine, best first; those that are the CPU under another name come last."""
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rwkv_edge_device.found import Found, arranged

from rwkv_edge_opencl.features import offered

VERSION = (1, 2)
LEAST_THREADS = 128  # of a workgroup
LEAST_LOCAL_MEMORY = 16384


def found() -> list[Found]:
    import pyopencl as cl

    return arranged(device for platform in _platforms(cl) for device in _usable(cl, platform))


def _platforms(cl: Any) -> list[Any]:
    try:
        return list(cl.get_platforms())
    except cl.Error as error:
        if error.code == cl.status_code.PLATFORM_NOT_FOUND_KHR:
            return []
        raise


def _usable(cl: Any, platform: Any) -> Iterator[Found]:
    """Those that can run the kernels here. A platform without devices, or a device that does not answer, hides no other."""
    with suppress(cl.Error):
        for device in platform.get_devices():
            with suppress(cl.Error):
                if _able(device):
                    yield _found(platform, device)


def _able(device: Any) -> bool:
    """Whether it can run the kernels here."""
    number = device.version.split()[1].split(".")  # "OpenCL 3.0 and more"
    return bool(
        (int(number[0]), int(number[1])) >= VERSION
        and device.available
        and device.compiler_available
        and device.endian_little
        and device.max_work_group_size >= LEAST_THREADS
        and device.local_mem_size >= LEAST_LOCAL_MEMORY
    )


def _found(platform: Any, device: Any) -> Found:
    name = " ".join(device.name.split()) or "unnamed device"
    driver = f"{platform.version} {device.version} {device.driver_version}"  # the platform's tells PoCL's LLVM
    memory = int(device.global_mem_size)
    return Found(name, _kind(device), driver, platform.name.strip(), device, memory, offered(device))


def _kind(device: Any) -> str:
    import pyopencl as cl

    if device.type & cl.device_type.GPU:
        return "integrated" if device.host_unified_memory else "discrete"
    return "software" if device.type & cl.device_type.CPU else "other"
