"""What comes back from the device: through one buffer that is kept, mapped as soon as the queue is done."""
import time
from typing import Any

import wgpu
from numpy.typing import NDArray
from wgpu.backends.wgpu_native import ffi, lib
from wgpu.backends.wgpu_native._api import from_c_string_view

SMALLEST = 1 << 16  # bytes


class Staging:
    """Copies device memory to the host. waited: seconds for the device, in all.

    Waits straight through wgpu-native: wgpu-py makes a C callback for each mapping and waits in a thread of its own, which
    holds a lock that submitting needs.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.waited = 0.0
        self._buffer: Any = None
        self._ends: list[str] = []  # of mappings that were asked for: "", or what was wrong
        self._callback = _callback(self._ends)
        self._info = ffi.new("WGPUBufferMapCallbackInfo *")
        self._info.mode, self._info.callback = lib.WGPUCallbackMode_AllowProcessEvents, self._callback

    @property
    def nbytes(self) -> int:
        return self._buffer.size if self._buffer else 0

    def reserved(self, nbytes: int) -> Any:
        """The buffer, with room for these: for commands to copy to."""
        if self.nbytes < nbytes:
            self.close()
            size = max(SMALLEST, 1 << (nbytes - 1).bit_length())
            self._buffer = self.device.create_buffer(size=size, usage=wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST)
        return self._buffer

    def bring(self, out: NDArray[Any]) -> None:
        """Wait for what was submitted, and fill `out` from the buffer's begin."""
        buffer, self._buffer = self._buffer, None
        try:
            self._map(buffer._internal, out.nbytes)
            ffi.memmove(ffi.from_buffer(out), lib.wgpuBufferGetMappedRange(buffer._internal, 0, out.nbytes), out.nbytes)
            lib.wgpuBufferUnmap(buffer._internal)
        except BaseException:  # an interrupt may leave it mapped, and of no more use
            buffer.destroy()
            raise
        self._buffer = buffer

    def close(self) -> None:
        if self._buffer is not None:
            self._buffer.destroy()
            self._buffer = None

    def _map(self, handle: Any, nbytes: int) -> None:
        self._ends.clear()
        start = time.perf_counter()
        lib.wgpuBufferMapAsync(handle, lib.WGPUMapMode_Read, 0, nbytes, self._info[0])
        while not self._ends:
            lib.wgpuDevicePoll(self.device._internal, True, ffi.NULL)
        self.waited += time.perf_counter() - start
        if self._ends[0]:
            raise RuntimeError(self._ends[0])


def _callback(ends: list[str]) -> Any:
    @ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)")  # type: ignore[untyped-decorator]
    def ended(status: int, message: Any, _first: Any, _second: Any) -> None:
        right = status == lib.WGPUMapAsyncStatus_Success
        ends.append("" if right else from_c_string_view(message) or f"mapping ended with status {status}")

    return ended
