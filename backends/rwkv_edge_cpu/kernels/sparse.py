"""y = weight @ x for one row x that is mostly zeros: weights of keys whose activation is zero are not read.

The matrix is re-laid by key (shape/key_major.py) when such rows come, tile by tile, by the threads that need the tiles, and one
matrix a step; until then, and for rows with few zeros, the memory of the copy is not touched. Units: outputs, whole tiles.
"""
from functools import cache

from rwkv_edge_cpu.code.intrinsics import call_kernel, floats, int32s, int64s
from rwkv_edge_cpu.code.jit import REDUCTION, Kernel, inlined, kernel, specialized, with_globals
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.quantized import quantize_run
from rwkv_edge_cpu.ir.relay import SIDE, block_apart, square_turn
from rwkv_edge_cpu.ir.sparse import list_key, nonzero_keys, sparse_product
from rwkv_edge_cpu.shape.key_major import key_major
from rwkv_edge_cpu.shape.layout import (
    COPIED,
    COPY,
    DENSE,
    GROUP,
    LIST,
    MOST,
    N_FIELDS,
    N_IN,
    N_SPARSE,
    NOT_FINITE,
    OUT,
    READY,
    RELAY,
    SPARSE,
    STRIDE_OUT,
    TILE,
    TILE_BYTES,
    UNTOUCHED,
    WEIGHT,
    ZERO,
    A,
    B,
)

# The templates' globals, see `jit.with_globals`.
BLOCK_SIZE = BLOCK_BYTES = GROUP_SIZE = LANES = HALVES = HEADER = TILE_BLOCK = 0
round_run = apart = turn = product = lambda *_: 0


def _key_list(group, plain):
    """A function list_keys(x, lists, n, run): the keys of one run of x, see ir/sparse.py."""
    keys_of, add_key, size = nonzero_keys(group, plain), list_key(plain), 4 if plain else 1

    @inlined
    def list_keys(x, lists, n, run):
        counts = int32s(lists, n // group)
        for i in range(32 // group * run, 32 // group * (run + 1)):
            indices = lists + 4 * (n // group) + group * i
            values = lists + 4 * (n // group) + n + size * group * i
            bits = keys_of(x + size * group * i, indices, values)
            count = 0
            while bits:
                add_key(x + size * group * i, indices, values, count, bits)
                bits &= bits - 1
                count += 1
            counts[i] = (count + 3) // 4

    return list_keys


list_bytes, list_bytes_by_16, list_floats = _key_list(32, False), _key_list(16, False), _key_list(32, True)


def quantize_one_row(record, frame, scratch, begin, end):
    """As `quantized.quantize`, for one row; behind its bytes comes its list. Units: runs."""
    r = int64s(record, N_FIELDS)
    lists = r[OUT] + r[LIST]
    for run in range(begin, end):
        round_run(r[A] + 128 * run, r[OUT], r[N_IN], run, r[ZERO], r[GROUP])
        if r[GROUP] == 32:
            list_bytes(r[OUT], lists, r[N_IN], run)
        else:
            list_bytes_by_16(r[OUT], lists, r[N_IN], run)


@cache
def quantize_and_list(cpu: Target) -> Kernel:
    return kernel()(with_globals(quantize_one_row, "quantize_and_list", round_run=quantize_run(cpu)))


@kernel()
def list_of_floats(record, frame, scratch, begin, end):
    """OUT: the list of A, one row. Units: runs."""
    r = int64s(record, N_FIELDS)
    for run in range(begin, end):
        list_floats(r[A], r[OUT], r[N_IN], run)


@kernel()
def nothing(record, frame, scratch, begin, end):
    """Several rows take all keys: no lists."""


def rows_by_key(record, frame, scratch, begin, end):
    """A: an activation row, as bytes or floats. B: where its list is."""
    r = int64s(record, N_FIELDS)
    s = int64s(r[SPARSE], N_SPARSE)
    n, tile = r[N_IN], s[TILE]
    lists = r[B] + r[LIST]
    fours = 0
    for count in int32s(lists, n // GROUP_SIZE):
        fours += count
    if fours > s[MOST]:
        call_kernel(s[DENSE], record, frame, scratch, begin, end)
        return
    ready = int64s(s[READY], -(-end // tile))
    indices = lists + 4 * (n // GROUP_SIZE)
    sums = floats(scratch, tile)
    for first in range(begin, end, tile):
        number, stop = first // tile, min(first + tile, end)
        if ready[number] == UNTOUCHED:
            call_kernel(s[RELAY], record, frame, scratch, first, stop)
        if ready[number] != COPIED:
            ready[number] += ready[number] < UNTOUCHED
            call_kernel(s[DENSE], record, frame, scratch, first, stop)
            continue
        source = s[COPY] + number * s[TILE_BYTES]
        sums[:] = 0
        product(source, source + s[TILE_BYTES], tile, r[A], n, lists, indices, indices + n, scratch)
        y = floats(r[OUT] + 4 * first, stop - first)
        for i in range(stop - first):
            y[i] = sums[i]


def relay_blocks(record, frame, scratch, begin, end):
    """Re-lay a tile. Outputs `begin` to `end`; where the tile has more, the last one again."""
    r = int64s(record, N_FIELDS)
    s = int64s(r[SPARSE], N_SPARSE)
    width = s[TILE]
    key_bytes = width // HALVES
    finite = 1
    for block in range(r[N_IN] // BLOCK_SIZE):
        header = s[COPY] + begin // width * s[TILE_BYTES] + width * TILE_BLOCK * block
        source = r[WEIGHT] + BLOCK_BYTES * block
        for byte in range(0, key_bytes, SIDE):  # of a key: the product weaves four vectors of 4 * LANES bytes
            slab, part = byte // (4 * LANES), byte % (4 * LANES) // SIDE
            for i in range(SIDE * HALVES):
                output = 4 * LANES * (HALVES * slab + i // SIDE) + LANES * (i % SIDE // 4) + 4 * part + i % 4
                row = min(begin + output, end - 1)
                finite &= apart(source + row * r[STRIDE_OUT], scratch + BLOCK_SIZE * i, header, width, output)
            for key in range(0, BLOCK_SIZE, SIDE):
                turn(scratch + key, BLOCK_SIZE, 0, header + width * HEADER + key_bytes * key + byte, key_bytes)
    int64s(s[READY], begin // width + 1)[begin // width] = COPIED if finite else NOT_FINITE


def relay_floats(record, frame, scratch, begin, end):
    """As relay_blocks."""
    r = int64s(record, N_FIELDS)
    s = int64s(r[SPARSE], N_SPARSE)
    width = s[TILE]
    target = s[COPY] + begin // width * s[TILE_BYTES]
    finite = 1
    for key in range(0, r[N_IN], SIDE):
        for output in range(0, width, SIDE):
            first = min(begin + output, end - 1)
            source = r[WEIGHT] + first * r[STRIDE_OUT] + BLOCK_BYTES * key
            place = target + BLOCK_BYTES * (width * key + output)
            finite &= turn(source, r[STRIDE_OUT], end - 1 - first, place, BLOCK_BYTES * width)
    int64s(s[READY], begin // width + 1)[begin // width] = COPIED if finite else NOT_FINITE


@cache
def sparse_kernel(cpu: Target, format: str) -> Kernel:
    """For one row x."""
    names = {"product": sparse_product(cpu, format), "GROUP_SIZE": key_major(format).group}
    return kernel(REDUCTION)(specialized(rows_by_key, format, **names))


@cache
def relay_kernel(cpu: Target, format: str) -> Kernel:
    lies = key_major(format)
    if lies.bits > 8:
        return kernel()(specialized(relay_floats, format, turn=square_turn(format)))
    names = {"apart": block_apart(cpu, format), "turn": square_turn(format), "LANES": cpu.isa.native, "HALVES": 8 // lies.bits}
    return kernel()(specialized(relay_blocks, format, **names, HEADER=lies.header, TILE_BLOCK=lies.block_bytes))
