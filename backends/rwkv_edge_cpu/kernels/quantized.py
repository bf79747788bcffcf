"""y = weight @ x for weights in blocks, from the blocks and from activations rounded to bytes. Units: rows of the weight.

One function per format, made when it is first used from the templates here: the same code around another format's intrinsics.
"""
from functools import cache

from rwkv_edge_cpu.code.intrinsics import floats, int64s
from rwkv_edge_cpu.code.jit import REDUCTION, Kernel, decoder, inlined, kernel, specialized, with_globals
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.band import BAND_ROWS, BAND_TOKENS, band_pack, block_band, has_bands
from rwkv_edge_cpu.ir.quantized import BLOCKS, block_decode, quantize_panel_run, quantize_run
from rwkv_edge_cpu.ir.row import ROW_TOKENS, block_dot, block_dots, dots_rows
from rwkv_edge_cpu.ir.tile import block_tile, block_unpack, prefetch_bytes, transpose, transpose_codes
from rwkv_edge_cpu.shape.codes import ORIGINS, PANEL_END, PANEL_ORIGINS, PANEL_SCALES, PANEL_SUMS, RUN, SCALES, SUMS
from rwkv_edge_cpu.shape.layout import (
    BAND_WIDTH,
    GROUP,
    N_FIELDS,
    N_IN,
    OUT,
    PANELS,
    ROWS,
    STRIDE_OUT,
    TILE_TOKENS,
    TILE_WIDTH,
    UNPACKED,
    UNPACKED_BYTES,
    WEIGHT,
    WIDTH,
    X_STRIDE,
    ZERO,
    A,
)

PANEL_RUNS = TILE_WIDTH // RUN

BAND_LEAST, BAND_MOST = 5, 16  # rows x, for which bands are fastest; measured
# The templates' globals, see `jit.with_globals`.
BLOCK_SIZE = BLOCK_BYTES = GROUP_SIZE = HAS_OFFSETS = DOT_ROWS = LEAST = MOST = 0
ISA_ROWS = ISA_TOKENS = 0  # of a tile
decode_blocks = dot_row = dots = unpack_row = unpack_tile = multiply_tile = multiply = pack = band = in_tiles = lambda *_: None
round_run = round_panel_run = turn = turn_codes = lambda *_: None


def quantize_rows(record, frame, scratch, begin, end):
    """OUT: activation rows as bytes, see ir/quantized.py. A: x. Units: runs of all rows."""
    r = int64s(record, N_FIELDS)
    runs = r[N_IN] // 32
    while begin < end:  # what lies together of a row
        row, run = begin // runs, begin % runs
        if r[ROWS] < PANELS:
            first, stop = 0, runs
        else:
            first = run // PANEL_RUNS * PANEL_RUNS
            stop = min(runs, first + PANEL_RUNS)
        n = min(end - begin, stop - run)
        for i in range(n):
            x = r[A] + 128 * (begin + i)
            if r[ROWS] < PANELS:
                round_run(x, r[OUT] + row * r[X_STRIDE], r[N_IN], run + i, r[ZERO], r[GROUP])
            else:
                place = r[OUT] + RUN * PANEL_END // 8 * (r[ROWS] * first + row * (stop - first))
                round_panel_run(x, place, RUN * (stop - first), run - first + i, r[ZERO], r[GROUP])
        begin += n


@cache
def quantize(cpu: Target) -> Kernel:
    names = {"round_run": quantize_run(cpu), "round_panel_run": quantize_panel_run(cpu)}
    return kernel()(with_globals(quantize_rows, "quantize", **names))


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
    for done in range(0, n, UNPACKED):
        m = min(UNPACKED, n - done)
        groups = m // GROUP_SIZE
        source = r[WEIGHT] + row * r[STRIDE_OUT] + (k + done) // BLOCK_SIZE * BLOCK_BYTES
        for i in range(ISA_ROWS):  # rows that are not there: the last one again
            piece = scratch + i * UNPACKED_BYTES
            at_row = source + min(i, n_rows - 1) * r[STRIDE_OUT]
            unpack_row(at_row, m // BLOCK_SIZE, piece, piece + UNPACKED, piece + UNPACKED + UNPACKED // 4)
        turn_codes(scratch, UNPACKED_BYTES, (m + 15) // 16, codes + done * ISA_ROWS)
        at_group = 4 * (done // GROUP_SIZE) * ISA_ROWS
        turn(scratch + UNPACKED, UNPACKED_BYTES, (groups + 3) // 4, scales + at_group)
        if HAS_OFFSETS:
            turn(scratch + UNPACKED + UNPACKED // 4, UNPACKED_BYTES, (groups + 3) // 4, offsets + at_group)


@inlined
def activations_at(r, token, k, n, group):
    """(addresses of bytes, scales, sums and origins of an activation row from number k on, bytes to the next row's).

    n: the panel's width.
    """
    if r[ROWS] < PANELS:
        x, eighth, before = r[A] + token * r[X_STRIDE], r[N_IN] // 8, k // group * 4
        return x + k, x + SCALES * eighth + k // 8, x + SUMS * eighth + before, x + ORIGINS * eighth + before, r[X_STRIDE]
    stride, eighth = n // 8 * PANEL_END, n // 8
    x = r[A] + r[ROWS] * (k // 8 * PANEL_END) + token * stride
    return x, x + PANEL_SCALES * eighth, x + PANEL_SUMS * eighth, x + PANEL_ORIGINS * eighth, stride


def multiply_rows(r, scratch, row, n_rows, token, n_tokens):
    """Some rows of the weight times some activation rows; the sums stay together until they are whole."""
    codes = scratch
    scales = codes + ISA_ROWS * TILE_WIDTH
    offsets = scales + ISA_ROWS * TILE_WIDTH // 4
    pieces = offsets + ISA_ROWS * TILE_WIDTH // 4
    sums = pieces + ISA_ROWS * UNPACKED_BYTES
    totals = floats(sums, ISA_ROWS * (n_tokens + ISA_TOKENS))
    totals[:] = 0.0
    for k in range(0, r[N_IN], TILE_WIDTH):
        n = min(TILE_WIDTH, r[N_IN] - k)
        unpack_tile(r, row, n_rows, k, n, pieces, codes, scales, offsets)
        x, x_scales, x_sums, x_origins, stride = activations_at(r, token, k, n, GROUP_SIZE)
        to_come = r[WEIGHT] + row * r[STRIDE_OUT] + (k + TILE_WIDTH) // BLOCK_SIZE * BLOCK_BYTES
        if k + n == r[N_IN]:
            to_come = r[WEIGHT] + (row + ISA_ROWS) * r[STRIDE_OUT]
        for t in range(0, n_tokens, ISA_TOKENS):
            last, to = min(ISA_TOKENS, n_tokens - t) - 1, t * stride
            # A little of it at a time: many reads at once would keep those of this tile waiting.
            for i in range(t * ISA_ROWS // n_tokens, (t + last + 1) * ISA_ROWS // n_tokens):
                prefetch_bytes(to_come + i * r[STRIDE_OUT], TILE_WIDTH // BLOCK_SIZE * BLOCK_BYTES)
            if k + n == r[N_IN]:  # the sums go there soon
                for j in range(t, t + last + 1):
                    prefetch_bytes(r[OUT] + 4 * ((token + j) * r[WIDTH] + row), 4 * n_rows)
            part = sums + 4 * ISA_ROWS * t
            multiply_tile(
                codes, scales, offsets, x + to, x_scales + to, x_sums + to, x_origins + to, stride, last, n // 32, part
            )
    for t in range(n_tokens):
        out = floats(r[OUT] + 4 * ((token + t) * r[WIDTH] + row), n_rows)
        for i in range(n_rows):
            out[i] = totals[ISA_ROWS * t + i]


def tiles_of(record, frame, scratch, begin, end):
    """A: activation rows as bytes. Rows of the weight are unpacked once, a tile at a time, for all of these.

    For a few, rows of the weight are unpacked on the way into the product, for ROW_TOKENS of these at a time.
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
            for t in range(0, r[ROWS], ROW_TOKENS):
                x, y, last_x = r[A] + t * r[X_STRIDE], r[OUT] + 4 * (t * r[WIDTH] + i), min(ROW_TOKENS, r[ROWS] - t) - 1
                dots(rows, r[STRIDE_OUT], last, x, r[X_STRIDE], last_x, r[N_IN], y, 4 * r[WIDTH])
        return
    for row in range(begin, end, ISA_ROWS):
        for t in range(0, r[ROWS], TILE_TOKENS):
            multiply(r, scratch, row, min(ISA_ROWS, end - row), t, min(TILE_TOKENS, r[ROWS] - t))


@cache
def decode_kernel(cpu: Target, format: str) -> Kernel:
    return decoder(specialized(decode, format, decode_blocks=block_decode(cpu, format)))


@cache
def row_kernel(cpu: Target, format: str) -> Kernel:
    """For one row x."""
    return kernel(REDUCTION)(specialized(rows_of, format, dot_row=block_dot(cpu, format)))


def few_rows(cpu: Target, format: str) -> tuple[int, int]:
    """For so many rows x, `dots` is fastest: fewer are multiplied one by one, for more a tile is made. Measured."""
    rows = dots_rows(cpu, format)
    tile_is_early = cpu.isa.name == "avx2" and BLOCKS[format].group < RUN
    return (2 if rows > 1 and format == "q8_0" else 3), ROW_TOKENS * rows - tile_is_early


def bands_of(record, frame, scratch, begin, end):
    """As tiles_of; what is between few rows x and many meets bands of rows of the weight."""
    r = int64s(record, N_FIELDS)
    if BAND_LEAST <= r[ROWS] <= BAND_MOST:
        whole = begin + (end - begin) // BAND_ROWS * BAND_ROWS
        for k in range(0, r[N_IN], BAND_WIDTH):
            n = min(BAND_WIDTH, r[N_IN] - k)
            for t in range(0, r[ROWS], BAND_TOKENS):
                x, last = r[A] + t * r[X_STRIDE], min(BAND_TOKENS, r[ROWS] - t) - 1
                pack(x, r[X_STRIDE], last, r[N_IN], k // RUN, n // RUN, scratch)
                for row in range(begin, whole, BAND_ROWS):
                    source = r[WEIGHT] + row * r[STRIDE_OUT] + k // BLOCK_SIZE * BLOCK_BYTES
                    y = r[OUT] + 4 * (t * r[WIDTH] + row)
                    band(source, r[STRIDE_OUT], scratch, last, n // BLOCK_SIZE, y, 4 * r[WIDTH], k > 0)
        begin = whole
    if begin < end:
        in_tiles(record, frame, scratch, begin, end)


@cache
def tile_kernel(cpu: Target, format: str) -> Kernel:
    """For several rows x."""
    block, shape = BLOCKS[format], {"ISA_ROWS": cpu.isa.rows, "ISA_TOKENS": cpu.isa.tokens}
    names = {"GROUP_SIZE": block.group, "HAS_OFFSETS": block.has_offsets, "unpack_row": block_unpack(cpu, format)}
    names |= {"turn": transpose(cpu), "turn_codes": transpose_codes(cpu)}
    unpack = inlined(specialized(unpack_rows, format, **names, **shape))
    least, most = few_rows(cpu, format)
    names = {"GROUP_SIZE": block.group, "unpack_tile": unpack, "multiply_tile": block_tile(cpu, format)}
    multiply = inlined(specialized(multiply_rows, format, **names, **shape))
    names = {"DOT_ROWS": dots_rows(cpu, format), "LEAST": least, "MOST": most, "dot_row": block_dot(cpu, format)}
    names |= {"dots": block_dots(cpu, format), "multiply": multiply}
    in_tiles = specialized(tiles_of, format, **names, **shape)
    if not has_bands(cpu, format):
        return kernel(REDUCTION)(in_tiles)
    names = {"pack": band_pack(cpu, format), "band": block_band(cpu, format), "in_tiles": inlined(in_tiles)}
    return kernel(REDUCTION)(specialized(bands_of, format, **names))
