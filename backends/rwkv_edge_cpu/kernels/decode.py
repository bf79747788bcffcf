"""Weights to float32, one function per format, all called alike.

decode(source, stride_out, stride_in, rows, n, target, target_stride): target[i, k] = weight[i, k] for i < rows, k < n.
Strides in bytes: row i begins at source + i * stride_out; along a row, a block (one weight, of plain floats) begins
stride_in behind the one before. n is a multiple of the block size.
"""
from functools import cache

from rwkv_edge_cpu.code.intrinsics import floats
from rwkv_edge_cpu.code.jit import Kernel, decoder, specialized
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.vector import PLAIN, SQUARE, plain_decode, square_decode, weight
from rwkv_edge_cpu.kernels.quantized import decode_kernel

BLOCK_BYTES = 0  # a weight's size; the template's globals, see `jit.with_globals`
run = square = weight_at = lambda *_: None


def decode_plain(source, stride_out, stride_in, rows, n, target, target_stride):
    """Weights one behind the other, in squares where the columns are so, and one by one."""
    if stride_in == BLOCK_BYTES:
        for i in range(rows):
            run(source + i * stride_out, n, target + i * target_stride)
        return
    squares, k_squares = (rows // SQUARE, n // SQUARE) if stride_out == BLOCK_BYTES else (0, 0)
    for k in range(0, k_squares * SQUARE, SQUARE):
        for i in range(0, squares * SQUARE, SQUARE):
            square(source + i * stride_out + k * stride_in, stride_in, target + i * target_stride + 4 * k, target_stride)
    for i in range(rows):
        for k in range(k_squares * SQUARE if i < squares * SQUARE else 0, n):
            floats(target + i * target_stride + 4 * k, 1)[0] = weight_at(source + i * stride_out + k * stride_in)


@cache
def plain_kernel(cpu: Target, format: str) -> Kernel:
    names = {"run": plain_decode(cpu, format), "square": square_decode(cpu, format), "weight_at": weight(cpu, format)}
    return decoder(specialized(decode_plain, format, **names))


def decoder_of(cpu: Target, format: str) -> Kernel:
    return (plain_kernel if format in PLAIN else decode_kernel)(cpu, format)
