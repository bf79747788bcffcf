"""`rwkv_edge.quant.encode` with its searches compiled: the same bytes."""
import ctypes
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode import encode_with
from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.encode.schemes import Scheme
from rwkv_edge.quant.unpacked import Bytes
from rwkv_edge_cpu.code.machine_code import KernelName, address, kernel_name
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.encode import layout

Floats = NDArray[np.float32]
KERNELS = SYMMETRIC, AFFINE = kernel_name("encode.symmetric.search"), kernel_name("encode.affine.search")


def encode(cpu: Target, format: str, weights: Floats, importance: Floats | None = None) -> Bytes:
    """As `rwkv_edge.quant.encode.encode`. Others may run meanwhile: the lock of Python's interpreter is released."""
    return encode_with(partial(search, cpu), format, weights, importance)


def search(cpu: Target, scheme: Scheme, x: Floats, w: Floats) -> Parts:
    """See `quant.encode.parts.Search`."""
    parts = Parts.empty(scheme, len(x))
    record, tables = layout.record_of(scheme, x, w, parts), layout.tables(scheme)
    for field, table in tables.items():
        record[field : field + 2] = table.ctypes.data, len(table)
    scratch = np.empty(layout.SCRATCH + layout.INTEGERS, np.float32)
    record[layout.MORE_SCRATCH] = scratch.ctypes.data + 4 * layout.SCRATCH
    chunks = -(-len(x) // layout.blocks_at_once(scheme))
    kernel = _function(AFFINE if scheme.offset_high else SYMMETRIC, cpu)
    kernel(record.ctypes.data, 0, scratch.ctypes.data, 0, chunks)
    return parts


@cache
def _function(name: KernelName, cpu: Target) -> Callable[..., None]:
    """Calls leave Python's interpreter to other threads."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(address(name, cpu))
