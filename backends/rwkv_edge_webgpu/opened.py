"""Adapters that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
from typing import Any

import wgpu

from rwkv_edge.device.driver import Kernel
from rwkv_edge_webgpu.adapters import Adapter
from rwkv_edge_webgpu.source import assemble

BINDINGS = ("storage", "read-only-storage", "read-only-storage", "storage", "read-only-storage", "uniform")  # of common.wgsl


class Opened:
    """device: wgpu's.  bindings: the layout of all kernels' bind groups."""

    def __init__(self, adapter: Adapter) -> None:
        self.device = adapter.open()
        entries = [
            {"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
            for i, kind in enumerate(BINDINGS)
        ]
        self.bindings = self.device.create_bind_group_layout(entries=entries)
        self._layout = self.device.create_pipeline_layout(bind_group_layouts=[self.bindings])
        self._pipelines: dict[str, Any] = {}

    def pipeline(self, kernel: Kernel) -> Any:
        source = assemble(kernel)
        pipeline = self._pipelines.get(source)
        if pipeline is None:
            module = self.device.create_shader_module(code=source)
            compute = {"module": module, "entry_point": "main"}
            pipeline = self.device.create_compute_pipeline(layout=self._layout, compute=compute)
            self._pipelines[source] = pipeline
        return pipeline


_lock = threading.Lock()
_opened: dict[str, Opened] = {}


def opened(adapter: Adapter) -> Opened:
    """Opens it unless it is open."""
    with _lock:
        if adapter.describe() not in _opened:
            _opened[adapter.describe()] = Opened(adapter)
        return _opened[adapter.describe()]


def forget(device: Opened) -> None:
    """The next model opens the adapter anew: this device is lost."""
    with _lock:
        for name in [name for name, each in _opened.items() if each is device]:
            del _opened[name]
