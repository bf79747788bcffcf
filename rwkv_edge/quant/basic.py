"""Blocks of 32 weights under one half-precision scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (and IQ4_NL, in iq.py).

Layouts: ggml's block structures of quantization version 2 (May 2023), which GGUF and rwkv.cpp's file version 101 hold.
`d` is the scale, `m` the offset. Byte i of `qs` holds weight i in its low half and weight i + 16 in its high half;
bit i of `qh` is the fifth bit of weight i.
"""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.unpacked import Bytes, Unpacked, f32, fields, lanes

LAYOUTS: dict[str, np.dtype[Any]] = {
    "q4_0": np.dtype([("d", "<f2"), ("qs", "u1", (16,))]),
    "q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,))]),
    "q5_0": np.dtype([("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))]),
    "q5_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))]),
    "q8_0": np.dtype([("d", "<f2"), ("qs", "i1", (32,))]),
}


def q4_0(b: NDArray[Any]) -> Unpacked:
    return Unpacked(lanes(fields(b["qs"], 4), 1, 32, zero=8), f32(b["d"]))


def q4_1(b: NDArray[Any]) -> Unpacked:
    return Unpacked(lanes(fields(b["qs"], 4), 1, 32), f32(b["d"]), f32(b["m"]))


def five_bits(b: NDArray[Any]) -> Bytes:
    """[n, 32] codes from 0 to 31."""
    high = np.unpackbits(b["qh"], axis=1, bitorder="little")
    return fields(b["qs"], 4).reshape(-1, 32) | high << np.uint8(4)


def q5_0(b: NDArray[Any]) -> Unpacked:
    return Unpacked(lanes(five_bits(b), 1, 32, zero=16), f32(b["d"]))


def q5_1(b: NDArray[Any]) -> Unpacked:
    return Unpacked(lanes(five_bits(b), 1, 32), f32(b["d"]), f32(b["m"]))


def q8_0(b: NDArray[Any]) -> Unpacked:
    return Unpacked(b["qs"][:, None, :], f32(b["d"]))


UNPACK = {"q4_0": q4_0, "q4_1": q4_1, "q5_0": q5_0, "q5_1": q5_1, "q8_0": q8_0}
