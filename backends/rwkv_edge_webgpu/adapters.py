"""The WebGPU adapters of this machine, best first."""
import platform
import threading
from functools import cache
from typing import Any

from rwkv_edge_device.found import Found, arranged

from rwkv_edge_webgpu.features import offered

KINDS = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "software"}
NEEDED = {  # by the kernels here; what every WebGPU device must have
    "max-storage-buffers-per-shader-stage": 5,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-storage-size": 16384,
}
WORSE_APIS = ("OpenGL", "OpenGLES")


_asking = threading.Lock()


@cache
def enumerated() -> tuple[Any, ...]:
    """wgpu's adapters. Asked once, and by one thread: wgpu-native crashes where two ask at a time, and takes its time."""
    import wgpu

    return tuple(wgpu.gpu.enumerate_adapters_sync())


def found() -> list[Found]:
    with _asking:
        handles = enumerated()
    able = [handle for handle in handles if all(handle.limits[name] >= need for name, need in NEEDED.items())]
    return arranged(map(_found, able), WORSE_APIS)


def _found(handle: Any) -> Found:
    info = handle.info
    name = str(info["device"] or info["description"] or info["vendor"] or "unnamed adapter")
    kind = KINDS.get(info["adapter_type"], "other")
    system = f"{platform.system()} {platform.release()}"  # whose part the driver is where it has no name, as Metal's
    driver = f"{info['vendor']} {info['description']}".strip() or system
    return Found(name, kind, driver, str(info["backend_type"]), handle, features=offered(handle.features))
