"""The WebGPU backend: GPUs through Vulkan, Metal or Direct3D 12, by wgpu-py. Importing this does not load wgpu."""
import logging
from importlib.metadata import version
from importlib.util import find_spec

from rwkv_edge.backend import Availability, Device, Executable
from rwkv_edge.errors import BackendError
from rwkv_edge.plan import Plan
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.system_memory import total_memory

logger = logging.getLogger("rwkv_edge")
INSTALL = "pip install 'rwkv-edge[webgpu]'"


class WebGpuBackend:
    name = "webgpu"

    def __init__(self, which: str | None = None) -> None:
        self._which = which

    def select(self, which: str) -> "WebGpuBackend":
        """The backend on another adapter: its number, or part of its name."""
        return WebGpuBackend(which)

    def availability(self) -> Availability:
        if find_spec("wgpu") is None:
            return Availability(False, f"wgpu is not installed: {INSTALL}")
        try:
            from rwkv_edge_webgpu import adapters

            found = adapters.found()
        except Exception as error:  # wgpu's native library may fail to load in many ways
            return Availability(False, f"wgpu cannot be used ({error}): {INSTALL}")
        if not found:
            return Availability(False, adapters.NONE_FOUND)
        return Availability(True, f"on {found[0].describe()}", automatic=found[0].kind != "software")

    def devices(self) -> list[Device]:
        """WebGPU does not tell how much memory a card has; the others use the machine's."""
        from rwkv_edge_webgpu import adapters

        own = {"discrete", "other"}
        return [Device(a.name, a.kind, None if a.kind in own else total_memory()) for a in adapters.found()]

    def supports(self, format: str) -> bool:
        return format in FORMATS

    def compile(
        self, plan: Plan, *, precision: str | None = None, threads: int | None = None, sparse: bool | None = None
    ) -> Executable:
        """precision: None or "fp32", of activations and states.  threads, sparse: of no use here.

        The first call for an adapter and driver runs a self-test (seconds), whose result is remembered.
        Raises BackendError where there is no such adapter, or it has too little memory, or computes wrongly.
        """
        if precision not in (None, "fp32"):
            raise BackendError(f"the webgpu backend computes in fp32, not in {precision}; the numpy backend offers fp64")
        from rwkv_edge.device.executable import DeviceExecutable
        from rwkv_edge.device.self_test import check_once
        from rwkv_edge_webgpu import adapters
        from rwkv_edge_webgpu.driver import WebGpuDriver
        from rwkv_edge_webgpu.source import sources_digest

        adapter = adapters.choose(adapters.found(), self._which)

        def on_adapter(plan: Plan) -> Executable:
            return DeviceExecutable(plan, WebGpuDriver(adapter))

        logger.info("webgpu runs on %s", adapter.describe())
        check_once(on_adapter, adapter.describe(), adapter.driver, version("wgpu"), sources_digest())
        return on_adapter(plan)


backend = WebGpuBackend()
