"""Devices that are open, with the kernels compiled for them: shared by all models of this process."""
import threading
import warnings
import weakref
from contextlib import suppress
from typing import Any

import pyopencl as cl
from rwkv_edge_device.driver import Kernel
from rwkv_edge_device.found import Found
from rwkv_edge_device.opened import OpenDevices

from rwkv_edge.errors import BackendError
from rwkv_edge_opencl.features import PROBES, standard
from rwkv_edge_opencl.source import text


class Opened:
    """context: pyopencl's.  features: that kernels use.  users: the drivers, whose memory counts together.

    lock: around `users`.
    """

    def __init__(self, device: Found) -> None:
        self.name, self.device = device.name, device.handle
        self.context = cl.Context([device.handle])
        self.lock = threading.Lock()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._programs: dict[str, Any] = {}
        self._options = [standard(device.handle, device.features)]
        self.features = tuple(name for name in device.features if self._takes(PROBES[name]))
        self._options = [standard(device.handle, self.features)]

    def kernel(self, kernel: Kernel) -> tuple[Any, int]:
        """A new kernel object, whose arguments are the caller's to set, and its threads per workgroup.

        Compiled once; pyopencl, or the driver where it does so itself, keeps the binary for other processes.
        """
        source = text(kernel, self.features)
        if source not in self._programs:
            self._programs[source] = self._build(source, kernel)
        made = cl.Kernel(self._programs[source], "run")
        info = cl.kernel_work_group_info
        lanes = made.get_work_group_info(info.COMPILE_WORK_GROUP_SIZE, self.device)[0]
        if lanes > (most := made.get_work_group_info(info.WORK_GROUP_SIZE, self.device)):
            raise BackendError(f"{self.name} runs a kernel ({kernel.files[-1]}) with {most} threads, which needs {lanes}")
        return made, lanes

    def _takes(self, source: str) -> bool:
        with warnings.catch_warnings(), suppress(cl.Error):
            warnings.simplefilter("ignore", cl.CompilerWarning)
            self._compiled(source)
            return True
        return False

    def _build(self, source: str, kernel: Kernel) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            try:
                return self._compiled(source)
            except cl.Error as error:
                if error.code != cl.status_code.BUILD_PROGRAM_FAILURE:
                    raise
                lines = str(error).splitlines()
                first = next((line for line in lines if "error:" in line.casefold()), lines[0] if lines else "")
                names = ", ".join(kernel.files)
                raise BackendError(f"the OpenCL compiler of {self.name} rejects a kernel ({names}): {first[:200]}") from error

    def _compiled(self, source: str) -> Any:
        try:
            return cl.Program(self.context, source).build(options=self._options)
        except (OSError, KeyError):  # its cache cannot be used (2026.1 trips over its own report of that)
            uncached: Any = False  # which its hints do not list
            return cl.Program(self.context, source).build(options=self._options, cache_dir=uncached)


OPENED = OpenDevices(Opened)
