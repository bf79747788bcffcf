"""The OpenCL devices of this machine, best first; those that are the CPU under another name come last."""
from collections.abc import Iterator
from typing import Any

from rwkv_edge.device.found import Found, arranged
from rwkv_edge_opencl.features import offered

VERSION = (1, 2)
LEAST_THREADS = 128  # of a workgroup
LEAST_LOCAL_MEMORY = 16384


def found() -> list[Found]:
    import pyopencl as cl

    pairs = ((platform, device) for platform in _platforms(cl) for device in _devices(cl, platform))
    return arranged(_found(platform, device) for platform, device in pairs if _able(device))


def _platforms(cl: Any) -> list[Any]:
    try:
        return list(cl.get_platforms())
    except cl.Error as error:
        if error.code == cl.status_code.PLATFORM_NOT_FOUND_KHR:
            return []
        raise


def _devices(cl: Any, platform: Any) -> Iterator[Any]:
    try:
        yield from platform.get_devices()
    except cl.Error:  # a platform without devices; others may have some
        return


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
    driver = f"{device.version} {device.driver_version}"
    memory = int(device.global_mem_size)
    return Found(name, _kind(device), driver, platform.name.strip(), device, memory, offered(device))


def _kind(device: Any) -> str:
    import pyopencl as cl

    if device.type & cl.device_type.GPU:
        return "integrated" if device.host_unified_memory else "discrete"
    return "software" if device.type & cl.device_type.CPU else "other"
