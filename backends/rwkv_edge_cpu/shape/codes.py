"""What records have to know of block formats and activations as bytes without loading a compiler: numbers only."""
from dataclasses import dataclass

from rwkv_edge_cpu.code.target import Target

RUN = 32  # weights; activations have one scale per run
PIECE = 16  # weights: four lanes of four products
# Where the parts of an activation row as bytes begin, in eighths of n bytes; see ir/quantized.py.
SCALES, STARTS, SUMS, ORIGINS, PAIRS, PIECES, END = 8, 9, 17, 19, 21, 25, 33
PANEL_SCALES, PANEL_SUMS, PANEL_ORIGINS, PANEL_END = 8, 9, 11, 13  # the same of a panel


@dataclass(frozen=True, slots=True)
class Codes:
    """weight = scale * (code - zero) + offset.

    zero: None: codes are signed bytes; else they are below 128, so signed and unsigned.  group: weights under one scale.
    """

    zero: int | None
    group: int = RUN
    has_offsets: bool = False


CODES: dict[str, Codes] = {
    "q4_0": Codes(8),
    "q4_1": Codes(0, has_offsets=True),
    "q5_0": Codes(16),
    "q5_1": Codes(0, has_offsets=True),
    "q8_0": Codes(None),
    "q2_k": Codes(0, 16, has_offsets=True),
    "q3_k": Codes(4, 16),
    "q4_k": Codes(0, has_offsets=True),
    "q5_k": Codes(0, has_offsets=True),
    "q6_k": Codes(32, 16),
    "iq4_nl": Codes(None),
    "iq4_xs": Codes(None),
    "iq3_xxs": Codes(None),
    "iq3_s": Codes(None),
}


def activation_bytes(cpu: Target, n: int) -> int:
    """Bytes of an activation row of n numbers, a whole number of cache lines; the last pieces may reach beyond them."""
    return -(-n * END // 8 // 64) * 64 + RUN * side_by_side(cpu)


def side_by_side(cpu: Target) -> int:
    """Blocks of one run whose codes fill a vector of the byte product."""
    return 4 * cpu.isa.native // PIECE


def zero_of(cpu: Target, name: str) -> int:
    """The code of weight zero, as the products see it."""
    zero = CODES[name].zero
    if zero is None:
        return 128 if cpu.isa.unsigned else 0
    return zero
