"""The WebGPU backend: GPUs through Vulkan, Metal or Direct3D 12, by wgpu-py. Importing this does not load wgpu."""
from rwkv_edge_device.backend import DeviceBackend
from rwkv_edge_device.driver import Driver
from rwkv_edge_device.found import Found

from rwkv_edge.backend import Traits
from rwkv_edge_webgpu.source import SOURCES


class WebGpuBackend(DeviceBackend):
    name = "webgpu"
    traits = Traits(rank=20, needs_device=True)
    library = "wgpu"
    noun = "WebGPU adapter"
    none_found = "no WebGPU adapter was found; a Vulkan driver is needed (Debian, Ubuntu: apt install mesa-vulkan-drivers)"
    sources = SOURCES

    def found(self) -> list[Found]:
        from rwkv_edge_webgpu import adapters

        return adapters.found()

    def open(self, device: Found) -> Driver:
        from rwkv_edge_webgpu.driver import WebGpuDriver

        return WebGpuDriver(device)


backend = WebGpuBackend()
