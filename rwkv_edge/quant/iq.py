"""Formats whose codes index a table: IQ4_NL and IQ4_XS (16 levels), IQ3_XXS and IQ3_S (codebooks of four magnitudes).

Layouts: ggml's block structures (QK_K = 256). `d` is the scale; the runs of 32 have small integer scales of their own.
"""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.grids import EVEN_SIGNS, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS
from rwkv_edge.quant.unpacked import Bytes, Unpacked, f32, fields, lanes

LAYOUTS: dict[str, np.dtype[Any]] = {
    "iq4_nl": np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
    "iq4_xs": np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (8, 16))]),
    "iq3_xxs": np.dtype([("d", "<f2"), ("qs", "u1", (64,)), ("scales_and_signs", "<u4", (8,))]),
    "iq3_s": np.dtype(
        [("d", "<f2"), ("qs", "u1", (64,)), ("qh", "u1", (8,)), ("signs", "u1", (32,)), ("scales", "u1", (4,))]
    ),
}


def iq4_nl(b: NDArray[Any]) -> Unpacked:
    return Unpacked(IQ4_LEVELS[fields(b["qs"], 4)].reshape(-1, 1, 32), f32(b["d"]))


def iq4_xs(b: NDArray[Any]) -> Unpacked:
    """Scales from -32 to 31: low halves in `scales_l`, two high bits each in `scales_h`."""
    high = b["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = lanes(pairs(b["scales_l"]) | high.astype(np.uint8) << np.uint8(4), 8, zero=32)
    return Unpacked(IQ4_LEVELS[fields(b["qs"], 4)].reshape(-1, 8, 32), f32(b["d"]) * scales)


def iq3_xxs(b: NDArray[Any]) -> Unpacked:
    """Each run's 32-bit word: four 7-bit sign sets, then a 4-bit scale on top."""
    word = b["scales_and_signs"]
    signs = EVEN_SIGNS[word[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127]
    scales = f32(b["d"]) * (np.float32(0.5) + (word >> 28).astype(np.float32)) * np.float32(0.5)
    return Unpacked(with_signs(IQ3_XXS_GRID[b["qs"]], signs), scales)


def iq3_s(b: NDArray[Any]) -> Unpacked:
    """9-bit codes (the ninth bits in `qh`), all signs, odd scales from 1 to 31."""
    codes = b["qs"] | np.unpackbits(b["qh"], axis=1, bitorder="little").astype(np.uint16) << 8
    return Unpacked(with_signs(IQ3_S_GRID[codes], b["signs"]), f32(b["d"]) * (2 * pairs(b["scales"]) + 1))


def pairs(bytes: Bytes) -> Bytes:
    """[n, m] -> [n, 2m]: low half and high half of the first byte, then of the second, and so on."""
    return fields(bytes, 4).swapaxes(-1, -2).reshape(len(bytes), -1)


def with_signs(magnitudes: NDArray[np.int8], signs: Bytes) -> NDArray[np.int8]:
    """[n, 8, 32] int8 of 256 magnitudes a block and their 256 sign bits (1: minus)."""
    minus = np.unpackbits(signs.reshape(len(signs), -1), axis=1, bitorder="little").view(np.int8)
    return (magnitudes.reshape(minus.shape) * (1 - 2 * minus)).reshape(-1, 8, 32)


UNPACK = {"iq4_nl": iq4_nl, "iq4_xs": iq4_xs, "iq3_xxs": iq3_xxs, "iq3_s": iq3_s}
