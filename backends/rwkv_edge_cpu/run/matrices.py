"""Matrices: what kernels must know of one, and which kernels multiply with it."""
import numpy as np

from rwkv_edge.errors import BackendError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor
from rwkv_edge_cpu.code.machine_code import KernelName, kernel_name
from rwkv_edge_cpu.shape import layout

BYTES_AT_ONCE = 32 << 10  # of weights that a thread takes at a time: a microsecond or more of work
PIECES_PER_THREAD = 4  # so that a thread which was interrupted does not keep the others waiting
ANY_STRIDES = kernel_name("kernels.matmul.any_strides")


def decoder_of(format: str) -> KernelName:
    return kernel_name("kernels.decode.decoder_of", format)


def by_key(format: str) -> tuple[KernelName, KernelName]:
    """The product by key, and what re-lays the matrix for it."""
    return kernel_name("kernels.sparse.sparse_kernel", format), kernel_name("kernels.sparse.relay_kernel", format)


def product_kernels(format: str) -> tuple[KernelName, ...]:
    """Blocks: of one row of x, of several. Floats: of one, weights row by row or column by column; of several, row by row."""
    blocks = "kernels.quantized.row_kernel", "kernels.quantized.tile_kernel"
    floats = "kernels.matvec.row_kernel", "kernels.matvec.column_kernel", "kernels.matmul.row_kernel"
    names = floats if FORMATS[format].is_float else blocks
    return tuple(kernel_name(name, format) for name in names)


def matrix_fields(weight: Tensor) -> dict[int, int]:
    """Address, shape and strides of a matrix, for a record. Raises BackendError for one that kernels cannot read."""
    if weight.format not in FORMATS:
        raise BackendError(f"{weight.name}: the cpu backend has no kernel for {weight.format}; decode it first")
    block = FORMATS[weight.format]
    data = weight.data
    if block.is_float:
        fits = data.dtype == FLOAT_STORAGE[weight.format] and data.shape == weight.shape
    else:
        expected = (weight.shape[0], block.row_bytes(weight.shape[1]))
        fits = data.dtype == np.uint8 and data.shape == expected and weight.shape[1] % block.block_size == 0
        fits = fits and data.strides[1] == 1
    if len(weight.shape) != 2 or not fits:
        raise BackendError(f"{weight.name}: {weight.format} data of {data.dtype} {data.shape} is no matrix {weight.shape}")
    return {
        layout.WEIGHT: int(data.__array_interface__["data"][0]),
        # The stride of an axis of length 1 may be anything; make it what fast kernels expect.
        layout.STRIDE_OUT: data.strides[0] if data.shape[0] > 1 else data.itemsize,
        layout.STRIDE_IN: block.block_bytes if not block.is_float or data.shape[1] == 1 else data.strides[1],
        layout.BLOCK: block.block_size,
        layout.N_IN: weight.shape[1],
    }


def fitting_kernels(format: str, fields: dict[int, int]) -> tuple[KernelName, KernelName]:
    """For a single row of x, and for more, of a matrix that lies so."""
    block, kernels = FORMATS[format], product_kernels(format)
    if not block.is_float:
        return kernels[0], kernels[1]
    if fields[layout.STRIDE_IN] == block.block_bytes:
        return kernels[0], kernels[2]
    if fields[layout.STRIDE_OUT] == block.block_bytes:
        return kernels[1], ANY_STRIDES
    return ANY_STRIDES, ANY_STRIDES


def rows_at_once(weight: Tensor, threads: int) -> int:
    """A multiple of what a tile holds; also of 16, so that threads do not write to the same cache line."""
    n_out = weight.shape[0]
    enough = BYTES_AT_ONCE * n_out // max(1, weight.nbytes)
    fair = n_out // (threads * PIECES_PER_THREAD)
    tile = layout.PLAIN_TILE_ROWS if FORMATS[weight.format].is_float else layout.BYTE_TILE_ROWS
    return max(1, min(enough, fair) // tile) * tile
