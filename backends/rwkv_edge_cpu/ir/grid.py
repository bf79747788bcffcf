"""Codebooks of four magnitudes held in registers, as LLVM IR, where 64 bytes are looked up at once (AVX-512 VBMI).

An entry is four digits of 3 bits, the levels' places, the first in the lowest bits. So a block's 64 indices, a byte each,
become the low bytes of its entries by tables of 128 bytes, then their upper halves by tables of half as many; a byte for each
weight is cut from them and, by its lowest bits, becomes its magnitude.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from rwkv_edge_cpu.ir.dot import indices as lanes
from rwkv_edge_cpu.ir.dot import pick
from rwkv_edge_cpu.ir.vector import I8, I16, I64, call, constant, vector

N = 64  # bytes in a register
BYTES, WORDS = vector(I8, N), vector(I16, N // 2)


@dataclass(frozen=True, eq=False)
class Codebook:
    """grid: [256 or 512, 4] magnitudes, from 0 to 127, of 8 levels."""

    grid: NDArray[np.int8]

    @cached_property
    def levels(self) -> NDArray[np.int8]:
        return np.unique(self.grid)

    @cached_property
    def entries(self) -> NDArray[np.int64]:
        places: NDArray[np.int64] = np.searchsorted(self.levels, self.grid)
        return places @ (1 << np.arange(0, 12, 3))

    def codes(self, b: ir.IRBuilder, indices: ir.Value, ninths: ir.Value | None, minus: list[ir.Value]) -> list[ir.Value]:
        """Four <64 x i8>.

        indices: <64 x i8>.  ninths: <64 x i1>, their ninth bits where there are 512 entries.  minus: <64 x i1> for each result.
        """
        eighths = b.icmp_signed("<", indices, constant(BYTES, 0))
        digits = [eighths] if ninths is None else [eighths, ninths]
        low = _chosen(b, self.entries & 255, indices, digits)
        upper, n = self.entries >> 8, len(self.entries) // 2
        both = _chosen(b, upper[:n] | upper[n:] << 4, indices, digits[:-1])
        high = b.select(digits[-1], b.bitcast(b.lshr(b.bitcast(both, WORDS), constant(WORDS, 4)), BYTES), both)
        return [self._of_entries(b, low, high, 16 * i, signs) for i, signs in enumerate(minus)]

    def _of_entries(self, b: ir.IRBuilder, low: ir.Value, high: ir.Value, first: int, minus: ir.Value) -> ir.Value:
        """The codes of 16 entries from `first` on: two entries in each eight bytes, of which each takes three bits."""
        order = [j for i in range(first, first + 16, 2) for j in [i, N + i, i + 1, N + i + 1] * 2]
        pairs = b.shuffle_vector(low, high, lanes(order))
        bits = ir.Constant(BYTES, [16 * (i // 4) + 3 * (i % 4) for i in range(8)] * (N // 8))
        places = call(b, "llvm.x86.avx512.pmultishift.qb.512", BYTES, bits, pairs)
        # From 128 on, whatever the sign: to add 128 to the codes, as products of unsigned bytes do, then costs nothing.
        levels = ir.Constant(BYTES, [int(x) - 128 for x in self.levels] * (N // 8))
        moved = call(b, "llvm.x86.avx512.permvar.qi.512", BYTES, levels, places)
        return b.xor(b.select(minus, b.neg(moved), moved), constant(BYTES, -128))


def _chosen(b: ir.IRBuilder, table: NDArray[Any], indices: ir.Value, digits: list[ir.Value]) -> ir.Value:
    """Indices to what stands there in tables of 128 bytes: by their low 7 bits in each, then of these by `digits`."""
    halves = [ir.Constant(BYTES, [int(x) for x in table[i : i + N]]) for i in range(0, len(table), N)]
    two = "llvm.x86.avx512.vpermi2var.qi.512"
    found = [call(b, two, BYTES, x, indices, y) for x, y in zip(halves[::2], halves[1::2], strict=True)]
    for digit in digits:
        found = [b.select(digit, y, x) for x, y in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def sign_sets(b: ir.IRBuilder, words: ir.Value, table: NDArray[np.uint8]) -> ir.Value:
    """<32 x i8> from <8 x i32>, each of four 7-bit places in a table of 128 bytes."""
    bits = ir.Constant(BYTES, [7 * (i % 4) for i in range(N)])
    places = call(b, "llvm.x86.avx512.pmultishift.qb.512", BYTES, bits, b.bitcast(b.zext(words, vector(I64, 8)), BYTES))
    return pick(b, _chosen(b, table, places, []), [8 * word + i for word in range(8) for i in range(4)])
