"""An open WebGPU device: buffers, pipelines, bind groups, and one submission per launch."""
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import wgpu
from numpy.typing import NDArray
from rwkv_edge_device.driver import Grid, Limits, Step
from rwkv_edge_device.failures import Failure, explained
from rwkv_edge_device.found import Found
from wgpu.backends.wgpu_native import ffi, lib

from rwkv_edge_webgpu.commands import Commands, Launch, Recording
from rwkv_edge_webgpu.opened import OPENED
from rwkv_edge_webgpu.source import DIALECT
from rwkv_edge_webgpu.staging import Staging

USAGE = wgpu.BufferUsage
STORAGE = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST
WORDS_BYTES = 512  # of a step's parameters, `words` in common.wgsl; a multiple of every offset alignment
MOST_WAITING = 1 << 23  # bytes of writes, of which the library keeps copies until the queue has done them
GUARANTEED_BINDING = 128 << 20  # what every WebGPU device can bind


def kind_of(error: Exception) -> Failure:
    if isinstance(error, wgpu.GPUOutOfMemoryError):
        return "memory"
    text = str(error).casefold()
    return "lost" if "lost" in text or "destroyed" in text else "other"


class WebGpuDriver:
    """See `rwkv_edge_device.driver.Driver`."""

    dialect = DIALECT

    def __init__(self, adapter: Found) -> None:
        self.name = adapter.name
        with explained(self.name, "cannot be opened", kind_of, lambda: None):
            self._opened = OPENED.get(adapter)
        self._turn = self._opened.turn
        self.device, self.features = self._opened.device, self._opened.features
        limits = self.device.limits
        binding = int(limits["max-storage-buffer-binding-size"])
        self.limits = Limits(min(binding, GUARANTEED_BINDING), int(limits["max-compute-workgroups-per-dimension"]))
        self._memories: set[Any] = set()
        self._waiting = 0  # bytes of writes since the queue was waited for
        self._staging = Staging(self.device)
        self._commands = Commands(self.device)

    @property
    def live(self) -> int:
        """Bytes that are allocated."""
        return sum(int(memory.size) for memory in self._memories) + self._staging.nbytes

    @property
    def waited(self) -> float:
        """Seconds for the device, in all."""
        return self._staging.waited

    @property
    def ahead(self) -> float:
        """Seconds of the host's work that the device did not wait for: on the next launch, while it was at one. In all."""
        return self._commands.seconds

    def _explained(self, what: str) -> AbstractContextManager[None]:
        return explained(self.name, what, kind_of, self._forget)

    def _forget(self) -> None:
        """Of a device that is lost."""
        self._commands.forget()
        OPENED.forget(self._opened)

    def allocate(self, nbytes: int, what: str) -> Any:
        size = max(16, -(-nbytes // 16) * 16)
        with self._turn, self._explained(f"has no {size / 1e6:.1f} MB for {what}"):
            memory = self.device.create_buffer(size=size, usage=STORAGE)
        self._memories.add(memory)
        return memory

    def free(self, memory: Any) -> None:
        with self._turn, self._explained("did not take memory back"):
            self._commands.forget()
            self._memories.discard(memory)
            memory.destroy()

    def write(self, memory: Any, offset: int, data: NDArray[Any]) -> None:
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        with self._turn, self._explained("did not take data"):
            for at in range(0, data.nbytes, MOST_WAITING):
                piece = data[at : at + MOST_WAITING]
                self.device.queue.write_buffer(memory, offset + at, piece)
                self._waiting += piece.nbytes
                if self._waiting >= MOST_WAITING:
                    self.device.queue.submit([])
                    lib.wgpuDevicePoll(self.device._internal, True, ffi.NULL)
                    self._waiting = 0

    @contextmanager
    def filling(self, memory: Any, offset: int, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        data = np.empty(nbytes, np.uint8)
        yield data
        self.write(memory, offset, data)

    def read(self, memory: Any, offset: int, out: NDArray[Any]) -> None:
        with self._turn, self._explained("did not give data back"):
            encoder = self.device.create_command_encoder()
            encoder.copy_buffer_to_buffer(memory, offset, self._staging.reserved(out.nbytes), 0, out.nbytes)
            self.device.queue.submit([encoder.finish()])
            self._staging.bring(out)

    def record(self, steps: Sequence[Step], arena: Any, vectors: Any, states: Any, inputs: Any) -> Recording:
        words = np.zeros((len(steps), WORDS_BYTES // 4), np.uint32)
        for row, step in zip(words, steps, strict=True):
            row[: len(step.words)] = step.words
        with self._turn, self._explained("did not take the kernels"):
            memory = self.device.create_buffer_with_data(data=words, usage=USAGE.UNIFORM)
            common = {0: arena, 1: vectors, 3: states, 4: inputs}
            recorded = []
            for i, step in enumerate(steps):
                bound = common | {2: vectors if step.weights is None else step.weights}
                entries = [{"binding": at, "resource": {"buffer": buffer}} for at, buffer in bound.items()]
                resource = {"buffer": memory, "offset": i * WORDS_BYTES, "size": WORDS_BYTES}
                entries.append({"binding": 5, "resource": resource})
                group = self.device.create_bind_group(layout=self._opened.bindings, entries=entries)
                recorded.append((self._opened.pipeline(step.kernel), group))
        handles = [(pipeline._internal, group._internal) for pipeline, group in recorded]
        return Recording(handles, recorded, memory)

    def launch(
        self, recording: Recording, grids: Sequence[Grid], arena: Any, offset: int, out: NDArray[np.float32]
    ) -> None:
        with self._turn, self._explained("did not run the kernels"):
            target = self._staging.reserved(out.nbytes) if out.size else None
            self._commands.submit(Launch(recording, grids, arena, offset, target, out.nbytes))
            if out.size:
                self._staging.bring(out)

    def close(self) -> None:
        with self._turn, self._explained("did not take memory back"):
            self._commands.close()
            for memory in self._memories:
                memory.destroy()
            self._memories.clear()
            self._staging.close()
