"""Tokens per second on a GPU through WebGPU, against the rate at which it copies its own memory.

    python -m bench.webgpu /tmp/m/rwkv7-1.5b.pth [--strategy "webgpu fp16"] [--tokens 64] [--prompt 512] [--rounds 5] [--save]

"GB/s" is the device's bytes of matrices (all are read once a token) times tokens/s; "of copy" compares it with copies between
two buffers, which count twice: read and written. "host ms" is all that the host does in a step, without what it waits for the
device; "exposed ms" is the part that the device waits for: from the call to the submission, and from the device's end to the
return. The rest is the commands of the next token, encoded while the device is at this one; a device that needs less time than
that waits for the rest of it too. Medians and leasts of 100 steps whose launches have one workgroup each: a software adapter
would take the processor from the host.
"""
from typing import Any

from bench import gpu


def copy(driver: Any, source: Any, target: Any) -> None:
    encoder = driver.device.create_command_encoder()
    for _ in range(gpu.COPIES):
        encoder.copy_buffer_to_buffer(source, 0, target, 0, gpu.COPIED)
    driver.device.queue.submit([encoder.finish()])


if __name__ == "__main__":
    gpu.main("webgpu", __doc__, copy)
