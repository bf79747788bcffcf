"""Adapters that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
from typing import Any

import wgpu

from rwkv_edge.device.driver import Kernel
from rwkv_edge.device.found import Found
from rwkv_edge.device.opened import OpenDevices
from rwkv_edge_webgpu.features import required
from rwkv_edge_webgpu.source import text

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
            module = self.device.create_shader_module(code=source)
            compute = {"module": module, "entry_point": "main"}
            pipeline = self.device.create_compute_pipeline(layout=self._layout, compute=compute)
            self._pipelines[source] = pipeline
        return pipeline


OPENED = OpenDevices(Opened)
