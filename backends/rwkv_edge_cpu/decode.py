"""Weights to float32, one function per format, all called alike.

decode(source, stride_out, stride_in, rows, n, target, target_stride): target[i, k] = weight[i, k] for i < rows, k < n.
Strides in bytes: row i begins at source + i * stride_out; along a row, a block (one weight, of plain floats) begins
stride_in behind the one before. n is a multiple of the block size.
"""
# mypy: allow-untyped-defs, disable-error-code="call-arg"
from rwkv_edge_cpu.intrinsics import floats
from rwkv_edge_cpu.jit import Kernel, decoder
from rwkv_edge_cpu.quantized import decode_kernel
from rwkv_edge_cpu.vector_ir import SQUARE, plain_decode, square_decode, weight

f32_run, f16_run, bf16_run = plain_decode("f32"), plain_decode("f16"), plain_decode("bf16")
f32_square, f16_square, bf16_square = square_decode("f32"), square_decode("f16"), square_decode("bf16")
f32_at, f16_at, bf16_at = weight("f32"), weight("f16"), weight("bf16")


@decoder
def decode_f32(source, stride_out, stride_in, rows, n, target, target_stride):
    if stride_in == 4:
        for i in range(rows):
            f32_run(source + i * stride_out, n, target + i * target_stride)
        return
    squares, k_squares = (rows // SQUARE, n // SQUARE) if stride_out == 4 else (0, 0)
    for k in range(0, k_squares * SQUARE, SQUARE):
        for i in range(0, squares * SQUARE, SQUARE):
            f32_square(source + i * stride_out + k * stride_in, stride_in, target + i * target_stride + 4 * k, target_stride)
    for i in range(rows):
        for k in range(k_squares * SQUARE if i < squares * SQUARE else 0, n):
            floats(target + i * target_stride + 4 * k, 1)[0] = f32_at(source + i * stride_out + k * stride_in)


@decoder
def decode_f16(source, stride_out, stride_in, rows, n, target, target_stride):
    if stride_in == 2:
        for i in range(rows):
            f16_run(source + i * stride_out, n, target + i * target_stride)
        return
    squares, k_squares = (rows // SQUARE, n // SQUARE) if stride_out == 2 else (0, 0)
    for k in range(0, k_squares * SQUARE, SQUARE):
        for i in range(0, squares * SQUARE, SQUARE):
            f16_square(source + i * stride_out + k * stride_in, stride_in, target + i * target_stride + 4 * k, target_stride)
    for i in range(rows):
        for k in range(k_squares * SQUARE if i < squares * SQUARE else 0, n):
            floats(target + i * target_stride + 4 * k, 1)[0] = f16_at(source + i * stride_out + k * stride_in)


@decoder
def decode_bf16(source, stride_out, stride_in, rows, n, target, target_stride):
    if stride_in == 2:
        for i in range(rows):
            bf16_run(source + i * stride_out, n, target + i * target_stride)
        return
    squares, k_squares = (rows // SQUARE, n // SQUARE) if stride_out == 2 else (0, 0)
    for k in range(0, k_squares * SQUARE, SQUARE):
        for i in range(0, squares * SQUARE, SQUARE):
            bf16_square(source + i * stride_out + k * stride_in, stride_in, target + i * target_stride + 4 * k, target_stride)
    for i in range(rows):
        for k in range(k_squares * SQUARE if i < squares * SQUARE else 0, n):
            floats(target + i * target_stride + 4 * k, 1)[0] = bf16_at(source + i * stride_out + k * stride_in)


PLAIN: dict[str, Kernel] = {"f32": decode_f32, "f16": decode_f16, "bf16": decode_bf16}


def decoder_of(format: str) -> Kernel:
    return PLAIN[format] if format in PLAIN else decode_kernel(format)
