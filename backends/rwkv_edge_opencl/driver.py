"""An open OpenCL device: buffers, kernels with their arguments, and one in-order queue."""
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray
from rwkv_edge_device.driver import Grid, Limits, Step
from rwkv_edge_device.failures import Failure, explained
from rwkv_edge_device.found import Found

from rwkv_edge.errors import BackendError
from rwkv_edge_opencl.opened import OPENED, Opened
from rwkv_edge_opencl.source import DIALECT

CODE, FLAG, MAP = cl.status_code, cl.mem_flags, cl.map_flags
NO_MEMORY = (CODE.MEM_OBJECT_ALLOCATION_FAILURE, CODE.OUT_OF_HOST_MEMORY)
LOST = (CODE.OUT_OF_RESOURCES, CODE.DEVICE_NOT_AVAILABLE, CODE.INVALID_CONTEXT, CODE.INVALID_COMMAND_QUEUE)
MOST_BINDING = 1 << 30  # larger matrices are split: indices in kernels have 32 bits
MOST_GROUPS = 1 << 22
MOST_THREADS = 256
SMALL = 1 << 16  # bytes that are copied rather than waited for
MOST_WAITING = 64  # such copies


def kind_of(error: Exception) -> Failure:
    code = error.code if isinstance(error, cl.Error) else None
    return "memory" if code in NO_MEMORY else "lost" if code in LOST else "other"


def kind_of_allocation(error: Exception) -> Failure:
    """Some drivers call a lack of memory by another name."""
    return "memory" if isinstance(error, cl.Error) and error.code == CODE.OUT_OF_RESOURCES else kind_of(error)


@dataclass(slots=True, eq=False)
class Recording:
    """launches: of each step the kernel, whose arguments are set, and its threads.  kept: what the arguments point at."""

    launches: list[tuple[Any, int]]
    kept: list[Any]


class OpenClDriver:
    """See `rwkv_edge_device.driver.Driver`. waited: seconds for the device, in all."""

    dialect = DIALECT

    def __init__(self, device: Found) -> None:
        self.name = device.name
        self._opened: Opened | None = None
        with self._explained("cannot be opened", lambda error: "other"):
            self._opened = OPENED.get(device)
            self.queue = cl.CommandQueue(self._opened.context)
            self.features = self._opened.features
        about = device.handle
        threads = min(MOST_THREADS, about.max_work_group_size, about.max_work_item_sizes[0])
        self.limits = Limits(min(about.max_mem_alloc_size & ~15, MOST_BINDING), MOST_GROUPS, 1 << threads.bit_length() - 1)
        self._most = int(about.global_mem_size)
        self._unified = bool(about.host_unified_memory)
        self._usage = FLAG.READ_WRITE | (FLAG.ALLOC_HOST_PTR if self._unified else 0)
        self._memories: dict[Any, int] = {}
        self._waiting: list[Any] = []  # events of writes, which keep what is written
        self.waited = 0.0
        with self._opened.lock:
            self._opened.users.add(self)

    @property
    def live(self) -> int:
        """Bytes that are allocated."""
        return sum(list(self._memories.values()))  # a copy: other threads' models ask too

    @property
    def _device(self) -> Opened:
        assert self._opened is not None
        return self._opened

    def _explained(self, what: str, kind: Any = kind_of) -> AbstractContextManager[None]:
        return explained(self.name, what, kind, lambda: OPENED.forget(self._opened) if self._opened else None)

    def allocate(self, nbytes: int, what: str) -> Any:
        size = max(16, -(-nbytes // 16) * 16)
        refused = f"has no {size / 1e6:.1f} MB for {what}"
        with self._device.lock:
            live = sum(user.live for user in self._device.users)
        if live + size > self._most:  # drivers notice late, if at all
            raise BackendError(f"{self.name} is out of memory: it {refused}")
        with self._explained(refused, kind_of_allocation):
            memory = cl.Buffer(self._device.context, self._usage, size)
            cl.enqueue_fill(self.queue, memory, np.zeros(1, np.uint32), size)
        self._memories[memory] = size
        return memory

    def free(self, memory: Any) -> None:
        self._memories.pop(memory, None)
        with suppress(cl.Error):  # of a device that is lost
            memory.release()

    def write(self, memory: Any, offset: int, data: NDArray[Any]) -> None:
        wait = data.nbytes > SMALL or len(self._waiting) >= MOST_WAITING
        if wait and self._unified:
            with self.filling(memory, offset, data.nbytes) as out:
                out[:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            return
        source = np.ascontiguousarray(data) if wait else data.copy()
        with self._explained("did not take data"):
            event = cl.enqueue_copy(self.queue, memory, source, dst_offset=offset, is_blocking=wait)
        if wait:
            self._waiting.clear()
        else:
            self._waiting.append(event)

    @contextmanager
    def filling(self, memory: Any, offset: int, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        if self._unified:
            with self._mapped(memory, offset, nbytes, MAP.WRITE_INVALIDATE_REGION, "did not take data") as out:
                yield out
        else:
            out = np.empty(nbytes, np.uint8)
            yield out
            self.write(memory, offset, out)

    def read(self, memory: Any, offset: int, out: NDArray[Any]) -> None:
        if self._unified:
            with self._mapped(memory, offset, out.nbytes, MAP.READ, "did not give data back") as data:
                out.reshape(-1).view(np.uint8)[:] = data
            return
        with self._explained("did not give data back"):
            start = time.perf_counter()
            cl.enqueue_copy(self.queue, out, memory, src_offset=offset, is_blocking=True)
            self.waited += time.perf_counter() - start
        self._waiting.clear()

    @contextmanager
    def _mapped(self, memory: Any, offset: int, nbytes: int, how: Any, failing: str) -> Iterator[NDArray[np.uint8]]:
        """A part of memory that the device shares with the host, when all is done that was launched before."""
        with self._explained(failing):
            start = time.perf_counter()
            array, _ = cl.enqueue_map_buffer(self.queue, memory, how, offset, (nbytes,), np.dtype(np.uint8))
            self.waited += time.perf_counter() - start
        self._waiting.clear()
        try:
            yield array
        finally:
            with self._explained(failing):
                array.base.release(self.queue)

    def record(self, steps: Sequence[Step], arena: Any, vectors: Any, states: Any, inputs: Any) -> Recording:
        begins = np.cumsum([0, *(len(step.words) for step in steps)])
        words = np.array([word for step in steps for word in step.words] or [0], np.uint32)
        with self._explained("did not take the kernels"):
            memory = cl.Buffer(self._device.context, FLAG.READ_ONLY | FLAG.COPY_HOST_PTR, hostbuf=words)
            launches = []
            for step, begin in zip(steps, begins[:-1], strict=True):
                kernel, lanes = self._device.kernel(step.kernel)
                weights = vectors if step.weights is None else step.weights
                for i, value in enumerate((arena, vectors, weights, states, inputs, memory, np.uint32(begin))):
                    kernel.set_arg(i, value)
                launches.append((kernel, lanes))
        return Recording(launches, [memory])

    def launch(
        self, recording: Recording, grids: Sequence[Grid], arena: Any, offset: int, out: NDArray[np.float32]
    ) -> None:
        queue, enqueue = self.queue, cl.enqueue_nd_range_kernel
        with self._explained("did not run the kernels"):
            for (kernel, lanes), (x, y, _) in zip(recording.launches, grids, strict=True):
                if x and y:
                    enqueue(queue, kernel, (x * lanes, y), (lanes, 1))
            queue.flush()
        if out.size:
            self.read(arena, offset, out)

    def close(self) -> None:
        for memory in list(self._memories):
            self.free(memory)
        self._waiting.clear()
