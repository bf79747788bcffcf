"""The OpenCL backend: devices without a good Vulkan or Metal driver, by pyopencl. Importing this does not load pyopencl."""
from rwkv_edge_device.backend import DeviceBackend
from rwkv_edge_device.driver import Driver
from rwkv_edge_device.found import Found

from rwkv_edge.backend import Traits
from rwkv_edge_opencl.source import SOURCES


class OpenClBackend(DeviceBackend):
    name = "opencl"
    traits = Traits(rank=30, needs_device=True)
    library = "pyopencl"
    noun = "OpenCL device"
    none_found = (
        "no OpenCL device was found; a driver is needed (Debian, Ubuntu: apt install intel-opencl-icd for Intel's GPUs, "
        "mesa-opencl-icd and RUSTICL_ENABLE for others; apt install pocl-opencl-icd for the CPU)"
    )
    sources = SOURCES

    def found(self) -> list[Found]:
        from rwkv_edge_opencl import devices

        return devices.found()

    def open(self, device: Found) -> Driver:
        from rwkv_edge_opencl.driver import OpenClDriver

        return OpenClDriver(device)


backend = OpenClBackend()
