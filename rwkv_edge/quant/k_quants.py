"""Blocks of 256 weights in runs of 16 or 32, whose scales are themselves small integers: Q2_K to Q6_K.

Layouts: ggml's block structures (QK_K = 256). `d` scales the runs' integer scales, `dmin` their integer offsets, which
are subtracted. The low bits of the weights (`qs`, `ql`) and their high bits (`hmask`, `qh`) lie apart, each packed so
that one shift of a row of bytes gives a row of consecutive weights.
"""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.unpacked import Bytes, Unpacked, f32, fields, lanes

_HALF = ("d", "<f2")
_HALVES = (_HALF, ("dmin", "<f2"))

LAYOUTS: dict[str, np.dtype[Any]] = {
    "q2_k": np.dtype([("scales", "u1", (16,)), ("qs", "u1", (2, 32)), *_HALVES]),
    "q3_k": np.dtype([("hmask", "u1", (32,)), ("qs", "u1", (2, 32)), ("scales", "u1", (12,)), _HALF]),
    "q4_k": np.dtype([*_HALVES, ("scales", "u1", (12,)), ("qs", "u1", (4, 32))]),
    "q5_k": np.dtype([*_HALVES, ("scales", "u1", (12,)), ("qh", "u1", (32,)), ("qs", "u1", (4, 32))]),
    "q6_k": np.dtype([("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", (16,)), _HALF]),
}


def q2_k(b: NDArray[Any]) -> Unpacked:
    scales = f32(b["d"]) * (b["scales"] & 15)
    offsets = f32(b["dmin"]) * (b["scales"] >> 4)
    return Unpacked(lanes(fields(b["qs"], 2), 16, 16), scales, -offsets)


def q3_k(b: NDArray[Any]) -> Unpacked:
    codes = fields(b["qs"], 2).reshape(-1, 8, 32) | fields(b["hmask"], 1) << np.uint8(2)
    return Unpacked(lanes(codes, 16, 16, zero=4), f32(b["d"]) * six_bit_scales(b["scales"]))


def six_bit_scales(packed: Bytes) -> NDArray[np.int8]:
    """Q3_K's 16 scales from -32 to 31: low halves in the first 8 bytes, two high bits each in the last 4."""
    low = fields(packed[:, :8], 4).reshape(-1, 16)
    high = fields(packed[:, 8:], 2).reshape(-1, 16)
    return lanes(low | high << np.uint8(4), 16, zero=32)


def q4_k(b: NDArray[Any]) -> Unpacked:
    scales, offsets = six_bit_pairs(b["scales"])
    return Unpacked(lanes(fields(b["qs"], 4), 8, 32), f32(b["d"]) * scales, -(f32(b["dmin"]) * offsets))


def q5_k(b: NDArray[Any]) -> Unpacked:
    codes = fields(b["qs"], 4).reshape(-1, 8, 32) | fields(b["qh"], 1) << np.uint8(4)
    scales, offsets = six_bit_pairs(b["scales"])
    return Unpacked(lanes(codes, 8, 32), f32(b["d"]) * scales, -(f32(b["dmin"]) * offsets))


def six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Q4_K's and Q5_K's 8 scales and 8 offsets from 0 to 63.

    Bytes 0-3 hold scales 0-3, bytes 4-7 offsets 0-3; scales and offsets 4-7 have their low halves in bytes 8-11 and
    their two high bits on top of bytes 0-3 and 4-7.
    """
    first, last = packed[:, :8].reshape(-1, 2, 4), fields(packed[:, 8:], 4)
    both = np.concatenate([first & 63, last | first >> 6 << 4], axis=-1)
    return both[:, 0], both[:, 1]


def q6_k(b: NDArray[Any]) -> Unpacked:
    codes = fields(b["ql"], 4).reshape(-1, 256) | fields(b["qh"], 2).reshape(-1, 256) << np.uint8(4)
    return Unpacked(lanes(codes, 16, 16, zero=32), f32(b["d"]) * b["scales"])


UNPACK = {"q2_k": q2_k, "q3_k": q3_k, "q4_k": q4_k, "q5_k": q5_k, "q6_k": q6_k}
