"""The commands of launches, and of the one that is expected next: encoded while the device is at the one before."""
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rwkv_edge_device.driver import Grid
from wgpu.backends.wgpu_native import ffi, lib


@dataclass(slots=True, eq=False)
class Recording:
    """handles: wgpu-native's own of each step's (pipeline, bind group).  kept: the objects behind them.

    words: the buffer with the parameters of all.
    """

    handles: list[tuple[Any, Any]]
    kept: list[Any]
    words: Any


@dataclass(slots=True)
class Launch:
    """A recording's steps; then a copy of `nbytes` from the arena's byte `offset` to `target`, for the host, unless it is None.

    Equal ones (same recording, same memories) have the same commands.
    """

    recording: Recording
    grids: Sequence[Grid]
    arena: Any
    offset: int
    target: Any
    nbytes: int

    def encoded(self, device: Any) -> Any:
        """Commands, which can be submitted once."""
        encoder = device.create_command_encoder()
        compute = encoder.begin_compute_pass()
        encode(compute._internal, self.recording.handles, self.grids)
        compute.end()
        if self.target is not None:
            encoder.copy_buffer_to_buffer(self.arena, self.offset, self.target, 0, self.nbytes)
        return encoder.finish()


def encode(compute: Any, handles: Sequence[tuple[Any, Any]], grids: Sequence[Grid]) -> None:
    """Launch after launch into a compute pass.

    Straight to wgpu-native: 1.2 us a launch where wgpu-py's methods take 3.1 us, of which a token has hundreds. What is wrong
    with a launch is reported when the pass is finished, so that nothing is missed.
    """
    set_pipeline, set_bind_group = lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup
    dispatch, null = lib.wgpuComputePassEncoderDispatchWorkgroups, ffi.NULL
    for (pipeline, group), (x, y, z) in zip(handles, grids, strict=True):
        if x and y:
            set_pipeline(compute, pipeline)
            set_bind_group(compute, 0, group, 0, null)
            dispatch(compute, x, y, z)


@dataclass(slots=True)
class Expected:
    """A launch that will come again, and its commands, once there are some."""

    launch: Launch
    commands: Any = None


class Commands:
    """Of one model's launches. seconds: that went into those that are expected, in all: while the device was busy.

    A launch that comes twice in a row, as those of single tokens do, is expected to come again: its commands are encoded ahead.
    Of each recording that is one launch, as long as memory stays where it is. For wgpu-native (29.0) frees commands only when
    they are submitted: 0.3 MB are lost with those that never are. And it ends the process where what is submitted refers to
    memory that was given back.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.seconds = 0.0
        self._last: Launch | None = None
        self._expected: dict[Recording, Expected] = {}
        self._lost: list[Any] = []  # buffers that commands hold which were never submitted

    def submit(self, launch: Launch) -> None:
        expected, commands = self._expecting(launch), None
        if expected is not None:
            commands, expected.commands = expected.commands, None
        self.device.queue.submit([commands or launch.encoded(self.device)])
        if expected is not None:
            start = time.perf_counter()
            expected.commands = launch.encoded(self.device)
            self.seconds += time.perf_counter() - start

    def forget(self) -> None:
        """Whatever is expected: memory is about to be given back."""
        self._last = None
        self._lost += [recording.words for recording in self._expected]
        self._expected.clear()

    def close(self) -> None:
        """Give back what is held by commands that are lost, and by nothing else then."""
        self.forget()
        for buffer in self._lost:
            buffer.destroy()

    def _expecting(self, launch: Launch) -> Expected | None:
        """If this launch will come again. Not one that brings nothing: it is not waited for, which is when to encode ahead."""
        expected = self._expected.get(launch.recording)
        free = expected is None or expected.launch.target is not launch.target
        if free and launch == self._last and launch.target is not None:
            expected = self._expected[launch.recording] = Expected(launch)
        self._last = launch
        return expected if expected is not None and expected.launch == launch else None
