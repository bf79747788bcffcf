"""The WebGPU adapters of this machine, best first."""
from dataclasses import dataclass
from typing import Any

from rwkv_edge.errors import BackendError

NONE_FOUND = "no WebGPU adapter was found; a Vulkan driver is needed (Debian, Ubuntu: apt install mesa-vulkan-drivers)"
KINDS = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "software"}
ORDER = ("discrete", "integrated", "other", "software")
NEEDED = {  # by the kernels here; what every WebGPU device must have
    "max-storage-buffers-per-shader-stage": 5,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-storage-size": 16384,
}
WORSE_APIS = ("OpenGL", "OpenGLES")  # the same adapters once more, with less that works


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """name: the device's.  kind: one of ORDER.  driver: what else decides what it computes."""

    name: str
    kind: str
    driver: str
    api: str
    handle: Any

    def open(self) -> Any:
        return self.handle.request_device_sync(label="rwkv_edge")

    def describe(self) -> str:
        return f"{self.name} ({self.kind}, {self.api})"


def found() -> list[Adapter]:
    """All adapters, best first; one that several APIs offer only once."""
    import wgpu

    handles = wgpu.gpu.enumerate_adapters_sync()
    adapters = [_adapter(handle) for handle in handles if all(handle.limits[name] >= need for name, need in NEEDED.items())]
    adapters.sort(key=lambda adapter: (ORDER.index(adapter.kind), adapter.api in WORSE_APIS))
    distinct: dict[str, Adapter] = {}
    for adapter in adapters:
        distinct.setdefault(adapter.name, adapter)
    return list(distinct.values())


def _adapter(handle: Any) -> Adapter:
    info = handle.info
    name = str(info["device"] or info["description"] or info["vendor"] or "unnamed adapter")
    kind = KINDS.get(info["adapter_type"], "other")
    return Adapter(name, kind, f"{info['vendor']} {info['description']}".strip(), str(info["backend_type"]), handle)


def choose(adapters: list[Adapter], which: str | None) -> Adapter:
    """The best, the one with a number (from 0), or the first whose name contains `which`. Raises BackendError: no such one."""
    if not adapters:
        raise BackendError(NONE_FOUND)
    if which is None:
        return adapters[0]
    if which.isdecimal() and int(which) < len(adapters):
        return adapters[int(which)]
    for adapter in adapters:
        if not which.isdecimal() and which.casefold() in adapter.name.casefold():
            return adapter
    listed = ", ".join(f"{i}: {adapter.describe()}" for i, adapter in enumerate(adapters))
    raise BackendError(f"no WebGPU adapter is {which!r}; there are {listed}")
