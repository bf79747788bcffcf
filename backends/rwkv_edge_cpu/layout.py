"""Where things lie in the int64 arrays that Python hands to compiled code. Addresses are bytes, all else is counts."""

# One record per op. Which operand is which (A, B, ...): see lowering.py.
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
    N_FIELDS,
) = range(27)

OPERANDS = slice(OUT, F + 1)

# The frame: what changes from run to run.
TOKENS, OUTPUTS, STATES, STARTS, SEGMENTS, N_FRAME = range(6)  # addresses of int32 [T], int32 [M], int64 [S], int64 [S + 1]; S

# Control words that threads share: atomics, a cache line apart, then for each worker one counter per op.
ARRIVED, ABORT, WAITED, COUNTERS = 0, 8, 16, 24

# Scratch of one thread: decoded weights, then room for what a tile returns.
TILE_ROWS = 4  # rows of a matrix that are decoded and multiplied at a time
TILE_WIDTH = 1024  # weights of each: 16 KB in all, for a first cache of 32; a multiple of every block size
TILE_STRIDE = TILE_WIDTH + 16  # floats; not a power of two, so that the rows do not compete for the same cache lines
BYTE_TILE_FLOATS = 32 * TILE_WIDTH * 6 // 16 + 32 * 12 + 32 * 112  # of 32 rows of blocks: bytes, scales, offsets; sums; pieces
SCRATCH_FLOATS = max(TILE_ROWS * TILE_STRIDE + 64, BYTE_TILE_FLOATS)
