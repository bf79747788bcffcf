"""Value matrices re-laid by key: what the product with a vector that is mostly zeros reads, and nothing else.

A tile is a number of outputs (rows of the matrix). Its keys lie one behind the other, in blocks as in the file; a block is

    scales       float16 [parts, width]: the scale of every output's block, then its offset where the format has one
    multipliers  int8 [parts, groups, width]: formats whose groups have scales of their own, in units of the block's
    codes        [keys of the block, width]: of 4 bits where 16 values are enough, else bytes; plain floats as they are

The order of a key's codes is the one in which the product's vectors want them, see `sparse.relay`. A format with a codebook
keeps positions in a table of 16 levels.
"""
from dataclasses import dataclass
from functools import cache

from rwkv_edge.quant.decode import LAYOUTS
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.grids import IQ4_LEVELS
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.shape.codes import CODES, RUN

NIBBLES = ("q4_0", "q4_1", "q2_k", "q3_k", "q4_k")  # codes from 0 to 15

_IQ4 = tuple(int(level) for level in IQ4_LEVELS)
LEVELS: dict[str, tuple[int, ...]] = {
    "iq4_nl": _IQ4,
    "iq4_xs": _IQ4,
    "iq3_xxs": (*range(-62, -51, 10), *range(-44, 0, 8), *range(4, 45, 8), 52, 62),
    "iq3_s": tuple(range(-15, 16, 2)),
}
UNITS = {"iq3_xxs": 0.25}  # what a multiplier counts, where that is not 1


@dataclass(frozen=True, slots=True)
class KeyMajor:
    """block: keys in a block.  group: keys under one scale.  bits: of a code.  levels: the table, empty: there is none.
    fields: where in a block of the file its float16 scale is, and its offset.  unit: of the multipliers, 0: there are none."""

    block: int
    group: int
    bits: int
    levels: tuple[int, ...] = ()
    fields: tuple[int, ...] = ()
    unit: float = 0.0

    @property
    def groups(self) -> int:
        return self.block // self.group

    def key_bytes(self, width: int) -> int:
        return width * self.bits // 8

    @property
    def header(self) -> int:
        """Bytes before a block's codes, for each output of the tile."""
        return len(self.fields) * (2 + (self.groups if self.unit else 0))

    @property
    def block_bytes(self) -> int:
        """For each output of the tile."""
        return self.header + self.block * self.bits // 8

    def tile_bytes(self, width: int, n: int) -> int:
        """Of `width` outputs and n keys."""
        return width * (n // self.block) * self.block_bytes


@cache
def key_major(format: str) -> KeyMajor:
    size = FORMATS[format]
    if size.is_float:
        return KeyMajor(RUN, RUN, 8 * size.block_bytes)
    places = LAYOUTS[format].fields
    assert places is not None
    fields = tuple(places[name][1] for name in ("d", "dmin", "m") if name in places)
    levels = LEVELS.get(format, ())
    unit = UNITS.get(format, 1.0) if size.block_size > RUN else 0.0
    return KeyMajor(size.block_size, CODES[format].group, 4 if levels or format in NIBBLES else 8, levels, fields, unit)


def slab_outputs(cpu: Target, format: str) -> int:
    """Outputs whose sums are in registers together; a tile's width is a multiple."""
    bits = key_major(format).bits
    return 64 if bits > 8 else 4 * cpu.isa.native * 8 // bits
