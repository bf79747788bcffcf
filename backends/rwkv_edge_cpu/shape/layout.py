"""Where things lie in the int64 arrays that Python hands to compiled code. Addresses are bytes, all else is counts."""

# One record per step. Which operand is which (A, B, ...): see run/lowering.py.
(
    KERNEL,  # address of the compiled function
    BARRIER,  # 1: all threads meet before this op
    UNITS,  # pieces of work: rows, heads, channels or elements, as the kernel counts them
    GRAIN,  # units a thread takes at a time; 0: every thread has a fixed share
    ROWS,  # rows of the op's result in this run
    WIDTH,  # of a row of the result
    OUT,
    A,
    B,
    C,
    D,
    E,
    F,
    SHARED,  # 1: the operand that may be a vector is one, the same for all rows
    PARAMETER,  # eps or factor: the bits of a float64
    HEADS,
    SLOT,  # offset in the state, in floats
    WEIGHT,  # a matrix: address of weight [0, 0]
    STRIDE_OUT,  # bytes from a row to the next
    STRIDE_IN,  # bytes from a block to the next in a row (of one weight: plain floats)
    BLOCK,  # weights per block
    N_IN,
    DECODE,  # address of the function that turns weights of this format into floats
    X_STRIDE,  # activations as bytes: from a row to the next
    ZERO,  # of the weights that they will meet: code of weight zero
    GROUP,  # of these: how many share a scale
    LIST,  # bytes from the operand that holds the list of keys to the list
    SPARSE,  # address of a record of its own, see kernels/sparse.py
    N_FIELDS,
) = range(29)

OPERANDS = slice(OUT, F + 1)

# What the record of an op by key has in a record of its own.
(
    COPY,  # address of the tiles, one behind the other
    TILE,  # outputs in a tile
    TILE_BYTES,
    READY,  # address of int64 [tiles]: see below
    MOST,  # fours of keys with which this is faster than the product with all
    DENSE,  # addresses of functions: the product with all keys,
    RELAY,  # and what re-lays a tile
    N_SPARSE,
) = range(8)
# Of a tile; below: so many rows still take all keys, so that not all matrices are re-laid in the same step.
UNTOUCHED, COPIED, NOT_FINITE = range(3)  # infinity and NaN times zero is NaN: such tiles take all keys

# The frame: what changes from run to run.
TOKENS, OUTPUTS, STATES, STARTS, SEGMENTS, N_FRAME = range(6)  # addresses of int32 [T], int32 [M], int64 [S], int64 [S + 1]; S

# Control words that threads share: atomics, a cache line apart, then for each worker one counter per op.
ARRIVED, ABORT, WAITED, COUNTERS = 0, 8, 16, 24

FEW = 4  # rows of x: fewer are multiplied one by one, because a tile would be mostly empty

# Scratch of one thread: decoded weights, then room for what a tile returns.
TILE_WIDTH = 512  # weights of a row that are decoded and multiplied at a time; a multiple of every block size
TILE_ROWS, PLAIN_TILE_ROWS = 4, 16  # of plain floats: rows in registers, and rows that are decoded at a time
TILE_STRIDE = TILE_WIDTH + 16  # floats; not a power of two, so that the rows do not compete for the same cache lines
BYTE_TILE_ROWS = 32  # of blocks: at most
UNPACKED = 256  # weights of each that are unpacked before they are sorted into a tile; a multiple of every block size
UNPACKED_BYTES = UNPACKED + 2 * UNPACKED // 4 + 64  # with scales and offsets; not a power of two
PANELS = 32  # rows of x as bytes: so many or more lie in panels, see ir/quantized.py
TILE_TOKENS = 128  # rows of x that meet an unpacked tile: at most, as many as a run of the model has
# Codes, scales, offsets; pieces; sums, with room for a tile of tokens of which most are not there.
BYTE_TILE_FLOATS = BYTE_TILE_ROWS * ((TILE_WIDTH * 6 + UNPACKED_BYTES * 4) // 16 + TILE_TOKENS + 8)
BAND_WIDTH = 4096  # weights of a row that are multiplied at a time, see ir/band.py; a multiple of every block size
BAND_FLOATS = BAND_WIDTH // 32 * 112  # activations as they meet them: at most
SCRATCH_FLOATS = max(PLAIN_TILE_ROWS * TILE_STRIDE + 64, BYTE_TILE_FLOATS, BAND_FLOATS)
