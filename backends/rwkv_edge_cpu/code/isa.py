"""The instruction sets that multiply bytes, and the numbers that follow from them."""
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Isa:
    """native: sums of four products that one instruction makes.  unsigned: it wants weights from 0 to 255.
    rows, tokens: of a tile."""

    name: str
    native: int
    unsigned: bool
    rows: int
    tokens: int


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512vnni", 16, True, 32, 4),
        Isa("avxvnni", 8, True, 8, 8),
        Isa("avx2", 8, False, 8, 4),
        Isa("neon_i8mm", 4, False, 8, 4),
        Isa("neon_dotprod", 4, False, 8, 4),
        Isa("neon", 4, False, 8, 2),
        Isa("generic", 8, False, 8, 2),
    )
}
