"""Adapters that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
from typing import Any

import wgpu
from rwkv_edge_device.driver import Kernel
from rwkv_edge_device.found import Found
from rwkv_edge_device.opened import OpenDevices
from wgpu.backends.wgpu_native import ffi, lib
from wgpu.backends.wgpu_native._api import GPUShaderModule, libf

from rwkv_edge_webgpu.features import required
from rwkv_edge_webgpu.source import text

NO_CHECKS = 0  # WGPUShaderRuntimeChecks
BINDINGS = ("storage", "read-only-storage", "read-only-storage", "storage", "read-only-storage", "uniform")  # of common.wgsl


class Opened:
    """device: wgpu's.  features: that kernels use.  bindings: the layout of all kernels' bind groups.

    turn: models on one device take turns. wgpu-native crashes where one thread waits for the device and another gives it work.
    """

    def __init__(self, adapter: Found) -> None:
        self.turn = threading.RLock()
        self.features = adapter.features
        self.device = adapter.handle.request_device_sync(label="rwkv_edge", required_features=required(self.features))
        entries = [
            {"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
            for i, kind in enumerate(BINDINGS)
        ]
        self.bindings = self.device.create_bind_group_layout(entries=entries)
        self._layout = self.device.create_pipeline_layout(bind_group_layouts=[self.bindings])
        self._pipelines: dict[str, Any] = {}

    def pipeline(self, kernel: Kernel) -> Any:
        source = text(kernel, self.features)
        pipeline = self._pipelines.get(source)
        if pipeline is None:
            module = trusted_module(self.device, source)
            compute = {"module": module, "entry_point": "main"}
            pipeline = self.device.create_compute_pipeline(layout=self._layout, compute=compute)
            self._pipelines[source] = pipeline
        return pipeline


def trusted_module(device: Any, source: str) -> Any:
    """A shader module without checks of bounds and of loops' ends, which wgpu writes around every access to memory where the
    driver has none of its own: loads then wait for each other. What indices depend on was checked before (inputs.py).

    wgpu-py has no method for it. Raises wgpu.GPUError for source that is refused.
    """
    encoded = source.encode()
    characters = ffi.new("char[]", encoded)  # the structures only point at it
    wgsl = ffi.new("WGPUShaderSourceWGSL *")
    wgsl.chain.sType = lib.WGPUSType_ShaderSourceWGSL
    wgsl.code.data, wgsl.code.length = characters, len(encoded)
    descriptor = ffi.new("WGPUShaderModuleDescriptor *")
    descriptor.nextInChain = ffi.cast("WGPUChainedStruct *", wgsl)
    handle = libf.wgpuDeviceCreateShaderModuleTrusted(device._internal, descriptor, NO_CHECKS)
    return GPUShaderModule("", handle, device)


OPENED = OpenDevices(Opened)
