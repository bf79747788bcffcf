"""y = weight @ x for weights in blocks, from the blocks and from activations rounded to bytes. Units: rows of the weight.

One function per format, made when it is first used from the templates here: the same code around another format's intrinsics.
"""
# mypy: allow-untyped-defs, disable-error-code="call-arg"
from functools import cache

from rwkv_edge_cpu import isa
from rwkv_edge_cpu.codes import RUN
from rwkv_edge_cpu.intrinsics import floats, int64s
from rwkv_edge_cpu.jit import REDUCTION, Kernel, decoder, inlined, kernel, specialized
from rwkv_edge_cpu.layout import (
    GROUP,
    N_FIELDS,
    N_IN,
    OUT,
    PANEL_WIDTH,
    PIECE,
    PIECE_BYTES,
    ROWS,
    STRIDE_OUT,
    TILE_WIDTH,
    WEIGHT,
    WIDTH,
    X_STRIDE,
    ZERO,
    A,
)
from rwkv_edge_cpu.panel_ir import ROWS as PANEL_ROWS
from rwkv_edge_cpu.panel_ir import TOKENS as PANEL_TOKENS
from rwkv_edge_cpu.panel_ir import block_panel, has_panels, panel_pack
from rwkv_edge_cpu.quantized_ir import BLOCKS, block_decode, quantize_run
from rwkv_edge_cpu.row_ir import TOKENS, block_dot, block_dots, dots_rows
from rwkv_edge_cpu.tile_ir import block_tile, block_unpack, prefetch_bytes, tile_shape, transpose, transpose_codes

BLOCK_SIZE = BLOCK_BYTES = GROUP_SIZE = HAS_OFFSETS = DOT_ROWS = LEAST = MOST = 0  # templates' globals, see `jit.specialized`
PANEL_LEAST, PANEL_MOST = 5, 16  # rows x, for which panels are fastest; measured
decode_blocks = dot_row = dots = unpack_row = unpack_tile = multiply_tile = pack = panel = in_tiles = lambda *_: None


@kernel()
def quantize(record, frame, scratch, begin, end):
    """OUT: activation rows as bytes, see quantized_ir. A: x. Units: runs of all rows."""
    r = int64s(record, N_FIELDS)
    runs = r[N_IN] // 32
    for unit in range(begin, end):
        row, run = unit // runs, unit % runs
        quantize_run(r[A] + 128 * unit, r[OUT] + row * r[X_STRIDE], r[N_IN], run, r[ZERO], r[GROUP])


def decode(source, stride_out, stride_in, rows, n, target, target_stride):
    """See decode.py."""
    for i in range(rows):
        decode_blocks(source + i * stride_out, n // BLOCK_SIZE, target + i * target_stride)


def rows_of(record, frame, scratch, begin, end):
    """A: an activation row as bytes."""
    r = int64s(record, N_FIELDS)
    y = floats(r[OUT], end)
    for i in range(begin, end):
        y[i] = dot_row(r[WEIGHT] + i * r[STRIDE_OUT], r[A], r[N_IN])


def unpack_rows(r, row, n_rows, k, n, scratch, codes, scales, offsets):
    """Weights k to k + n of some rows as a tile, a piece at a time: small enough to stay in the first cache in between."""
    tile_rows, _ = tile_shape()
    if k + TILE_WIDTH < r[N_IN]:  # from here to what the next tile will be made of
        ahead = TILE_WIDTH // BLOCK_SIZE * BLOCK_BYTES
    else:
        ahead = tile_rows * r[STRIDE_OUT] - k // BLOCK_SIZE * BLOCK_BYTES
    for done in range(0, n, PIECE):
        m = min(PIECE, n - done)
        groups = m // GROUP_SIZE
        source = r[WEIGHT] + row * r[STRIDE_OUT] + (k + done) // BLOCK_SIZE * BLOCK_BYTES
        for i in range(tile_rows):  # rows that are not there: the last one again
            piece = scratch + i * PIECE_BYTES
            at_row = source + min(i, n_rows - 1) * r[STRIDE_OUT]
            prefetch_bytes(at_row + ahead, m // BLOCK_SIZE * BLOCK_BYTES)
            unpack_row(at_row, m // BLOCK_SIZE, piece, piece + PIECE, piece + PIECE + PIECE // 4)
        transpose_codes(scratch, PIECE_BYTES, (m + 15) // 16, codes + done * tile_rows)
        at_group = 4 * (done // GROUP_SIZE) * tile_rows
        transpose(scratch + PIECE, PIECE_BYTES, (groups + 3) // 4, scales + at_group)
        if HAS_OFFSETS:
            transpose(scratch + PIECE + PIECE // 4, PIECE_BYTES, (groups + 3) // 4, offsets + at_group)


def tiles_of(record, frame, scratch, begin, end):
    """A: activation rows as bytes. Rows of the weight are unpacked once, a tile at a time, for all of these.

    For a few, rows of the weight are unpacked on the way into the product, for TOKENS of these at a time.
    """
    r = int64s(record, N_FIELDS)
    if r[ROWS] < LEAST:
        for i in range(begin, end):
            for t in range(r[ROWS]):
                y = floats(r[OUT] + 4 * t * r[WIDTH], end)
                y[i] = dot_row(r[WEIGHT] + i * r[STRIDE_OUT], r[A] + t * r[X_STRIDE], r[N_IN])
        return
    if r[ROWS] <= MOST:
        for i in range(begin, end, DOT_ROWS):
            rows, last = r[WEIGHT] + i * r[STRIDE_OUT], min(DOT_ROWS, end - i) - 1
            for t in range(0, r[ROWS], TOKENS):
                x, y, last_x = r[A] + t * r[X_STRIDE], r[OUT] + 4 * (t * r[WIDTH] + i), min(TOKENS, r[ROWS] - t) - 1
                dots(rows, r[STRIDE_OUT], last, x, r[X_STRIDE], last_x, r[N_IN], y, 4 * r[WIDTH])
        return
    tile_rows, tile_tokens = tile_shape()
    codes = scratch
    scales = codes + tile_rows * TILE_WIDTH
    offsets = scales + tile_rows * TILE_WIDTH // 4
    sums = offsets + tile_rows * TILE_WIDTH // 4
    pieces = sums + 4 * tile_rows * tile_tokens
    for row in range(begin, end, tile_rows):
        n_rows = min(tile_rows, end - row)
        for k in range(0, r[N_IN], TILE_WIDTH):
            n = min(TILE_WIDTH, r[N_IN] - k)
            unpack_tile(r, row, n_rows, k, n, pieces, codes, scales, offsets)
            for t in range(0, r[ROWS], tile_tokens):
                x, n_tokens = r[A] + t * r[X_STRIDE], min(tile_tokens, r[ROWS] - t)
                multiply_tile(codes, scales, offsets, x, r[X_STRIDE], n_tokens - 1, r[N_IN], k // 32, n // 32, sums)
                for j in range(n_tokens):
                    out = floats(r[OUT] + 4 * ((t + j) * r[WIDTH] + row), n_rows)
                    total = floats(sums + 4 * tile_rows * j, n_rows)
                    for i in range(n_rows):
                        out[i] = out[i] + total[i] if k > 0 else total[i]


@cache
def decode_kernel(format: str) -> Kernel:
    return decoder(specialized(decode, format, decode_blocks=block_decode(format)))


@cache
def row_kernel(format: str) -> Kernel:
    """For one row x."""
    return kernel(REDUCTION)(specialized(rows_of, format, dot_row=block_dot(format)))


def few_rows(format: str) -> tuple[int, int]:
    """For so many rows x, `dots` is fastest: fewer are multiplied one by one, for more a tile is made. Measured."""
    rows = dots_rows(format)
    tile_is_early = isa.chosen().name == "avx2" and BLOCKS[format].group < RUN
    return (2 if rows > 1 and format == "q8_0" else 3), TOKENS * rows - tile_is_early


def panels_of(record, frame, scratch, begin, end):
    """As tiles_of; what is between few rows x and many meets panels of rows of the weight."""
    r = int64s(record, N_FIELDS)
    if PANEL_LEAST <= r[ROWS] <= PANEL_MOST:
        whole = begin + (end - begin) // PANEL_ROWS * PANEL_ROWS
        for k in range(0, r[N_IN], PANEL_WIDTH):
            n = min(PANEL_WIDTH, r[N_IN] - k)
            for t in range(0, r[ROWS], PANEL_TOKENS):
                x, last = r[A] + t * r[X_STRIDE], min(PANEL_TOKENS, r[ROWS] - t) - 1
                pack(x, r[X_STRIDE], last, r[N_IN], k // RUN, n // RUN, scratch)
                for row in range(begin, whole, PANEL_ROWS):
                    source = r[WEIGHT] + row * r[STRIDE_OUT] + k // BLOCK_SIZE * BLOCK_BYTES
                    y = r[OUT] + 4 * (t * r[WIDTH] + row)
                    panel(source, r[STRIDE_OUT], scratch, last, n // BLOCK_SIZE, y, 4 * r[WIDTH], k > 0)
        begin = whole
    if begin < end:
        in_tiles(record, frame, scratch, begin, end)


@cache
def tile_kernel(format: str) -> Kernel:
    """For several rows x."""
    block = BLOCKS[format]
    names = {"GROUP_SIZE": block.group, "HAS_OFFSETS": block.has_offsets, "unpack_row": block_unpack(format)}
    unpack = inlined(specialized(unpack_rows, format, **names))
    least, most = few_rows(format)
    names = {"DOT_ROWS": dots_rows(format), "LEAST": least, "MOST": most, "dot_row": block_dot(format)}
    names |= {"dots": block_dots(format), "unpack_tile": unpack, "multiply_tile": block_tile(format)}
    in_tiles = specialized(tiles_of, format, **names)
    if not has_panels(format):
        return kernel(REDUCTION)(in_tiles)
    names = {"pack": panel_pack(format), "panel": block_panel(format), "in_tiles": inlined(in_tiles)}
    return kernel(REDUCTION)(specialized(panels_of, format, **names))
