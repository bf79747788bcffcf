"""Which products meet a vector that is mostly zeros, and the records and memory that these need."""
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import plan as p
from rwkv_edge.machine.mapping import release
from rwkv_edge.machine.memory import available_memory
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor
from rwkv_edge_cpu.code.machine_code import KernelName, address, kernel_name
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.run.memory import CACHE_LINE, aligned
from rwkv_edge_cpu.shape import layout
from rwkv_edge_cpu.shape.key_major import key_major, slab_outputs

LEAST_KEYS = 32  # a run
TILES_PER_THREAD = 1  # with two, a key's weights are half as long a stretch of memory: a fifth slower
MOST_OUTPUTS = 2048  # of a tile
MOST_KEYS = 0.6  # of all: with more, reading everything in order is faster
SHARE = 0.8  # of the memory that is available


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """weight: a matrix that is re-laid while the model runs.  ready: see layout.UNTOUCHED."""

    weight: Tensor
    ready: NDArray[np.int64]

    def give_back(self) -> bool:
        """Whether the copy is made; then the file's pages, which single tokens no longer read, are given back."""
        if (self.ready <= layout.UNTOUCHED).any():
            return False
        if (self.ready == layout.COPIED).all():
            release(self.weight.data)
        return True


def sparse_products(plan: p.Plan, cpu: Target, wanted: bool | None) -> frozenset[int]:
    """Positions of the products that go by key: those whose x is a relu². wanted: None: if the memory is there for it."""
    if wanted is False:
        return frozenset()
    squares = {op.out.index for op in plan.ops if isinstance(op, p.Activation) and op.kind == "relu_squared"}
    found = {
        i: op.weight for i, op in enumerate(plan.ops) if isinstance(op, p.MatMul) and op.x.index in squares and _fits(op.weight)
    }
    if wanted is None and not _enough_memory(cpu, plan.weights(), found.values()):
        return frozenset()
    return frozenset(found)


def _fits(weight: Tensor) -> bool:
    """Whole runs of keys, one behind the other."""
    return weight.shape[1] % LEAST_KEYS == 0 and weight.data.strides[1] == weight.data.itemsize


def _enough_memory(cpu: Target, weights: Iterable[Tensor], again: Iterable[Tensor]) -> bool:
    """Whether the whole model and the copies could be in memory together; then nothing that a step reads is ever pushed out."""
    need = sum({id(w.data): w.nbytes for w in weights}.values())
    need += sum(_copy_bytes(w, slab_outputs(cpu, w.format)) for w in again)
    return need <= SHARE * available_memory()


def _copy_bytes(weight: Tensor, width: int) -> int:
    return -(-weight.shape[0] // width) * key_major(weight.format).tile_bytes(width, weight.shape[1])


def tile_width(cpu: Target, n_out: int, format: str, threads: int) -> int:
    """Outputs of a tile: long stretches of memory, and an even share for every thread."""
    slab = slab_outputs(cpu, format)
    fair = -(-n_out // (threads * TILES_PER_THREAD))
    return max(1, min(MOST_OUTPUTS, fair) // slab) * slab


def sparse_record(
    weight: Tensor, dense: KernelName, cpu: Target, threads: int, kept: list[NDArray[Any]]
) -> tuple[NDArray[np.int64], Copy]:
    """See layout.py. Memory for the copy is reserved, not yet touched. kept: gets the arrays that must live on."""
    width = tile_width(cpu, weight.shape[0], weight.format, threads)
    tiles = -(-weight.shape[0] // width)
    copy = aligned(_copy_bytes(weight, width))
    ready = np.full(tiles, layout.UNTOUCHED, np.int64)
    record = np.zeros(layout.N_SPARSE, np.int64)
    record[layout.COPY] = copy.__array_interface__["data"][0]
    record[layout.TILE], record[layout.TILE_BYTES] = width, copy.nbytes // tiles
    record[layout.READY] = ready.__array_interface__["data"][0]
    record[layout.MOST] = int(MOST_KEYS * weight.shape[1] / 4)
    record[layout.DENSE] = address(dense, cpu)
    record[layout.RELAY] = address(kernel_name("kernels.sparse.relay_kernel", weight.format), cpu)
    kept += [copy, ready, record]
    return record, Copy(weight, ready)


def list_floats(n: int, format: str) -> int:
    """Numbers of the list of a row of n keys, see ir/sparse.py: whole cache lines."""
    nbytes = 4 * (n // key_major(format).group) + n + (4 if FORMATS[format].is_float else 1) * n
    return -(-nbytes // CACHE_LINE) * CACHE_LINE // 4
