"""Tokens per second on an OpenCL device, against the rate at which it copies its own memory.

    python -m bench.opencl /tmp/m/rwkv7-1.5b.pth [--strategy "opencl fp16"] [--tokens 64] [--prompt 512] [--rounds 5] [--save]

The columns are those of `bench.webgpu`. Nothing is encoded ahead: all of "host ms" is exposed, but for what the host enqueues
while the device is at an earlier kernel of the same step. On a CPU (PoCL) they say little: its threads share the cores with the
host.
"""
from typing import Any

from bench import gpu


def copy(driver: Any, source: Any, target: Any) -> None:
    import pyopencl as cl

    for _ in range(gpu.COPIES):
        cl.enqueue_copy(driver.queue, target, source, byte_count=gpu.COPIED)


if __name__ == "__main__":
    gpu.main("opencl", __doc__, copy)
