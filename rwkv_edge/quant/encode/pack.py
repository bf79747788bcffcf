"""Codes and scales to the bytes of blocks: the inverse of basic.py, k_quants.py and iq.py, where the layouts are explained."""
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.encode.parts import Parts
from rwkv_edge.quant.unpacked import Bytes

Blocks = NDArray[Any]


def joined(codes: NDArray[Any], bits: int) -> Bytes:
    """[..., 8 // bits, m] -> [..., m]: `fields` undone; codes must be below 1 << bits."""
    out = codes[..., 0, :].astype(np.uint8)
    for i in range(1, 8 // bits):
        out |= codes[..., i, :].astype(np.uint8) << np.uint8(i * bits)
    return out


def bits(codes: NDArray[Any]) -> Bytes:
    """[n, 8 * m] zeros and ones -> [n, m], the first in the lowest bit."""
    return np.packbits(codes.astype(bool), axis=1, bitorder="little")


def paired(small: NDArray[Any]) -> Bytes:
    """[n, 2 * m] -> [n, m]: `iq.pairs` undone."""
    return joined(small.reshape(len(small), -1, 2).swapaxes(1, 2), 4)


def four_bits(p: Parts, b: Blocks) -> None:
    b["d"] = p.d
    b["qs"] = joined(p.codes.reshape(-1, 2, 16) & 15, 4)


def four_bits_offset(p: Parts, b: Blocks) -> None:
    four_bits(p, b)
    b["m"] = 0 - p.dmin


def five_bits(p: Parts, b: Blocks) -> None:
    four_bits(p, b)
    b["qh"] = bits(p.codes >> 4)


def five_bits_offset(p: Parts, b: Blocks) -> None:
    five_bits(p, b)
    b["m"] = 0 - p.dmin


def q2_k(p: Parts, b: Blocks) -> None:
    b["d"], b["dmin"] = p.d, p.dmin
    b["scales"] = p.s.astype(np.uint8) | p.m << np.uint8(4)
    b["qs"] = joined(p.codes.reshape(-1, 2, 4, 32), 2)


def q3_k(p: Parts, b: Blocks) -> None:
    b["d"] = p.d
    b["qs"] = joined(p.codes.reshape(-1, 2, 4, 32) & 3, 2)
    b["hmask"] = joined(p.codes.reshape(-1, 8, 32) >> 2, 1)
    s = (p.s + 32).astype(np.uint8)
    b["scales"][:, :8] = joined(s.reshape(-1, 2, 8) & 15, 4)
    b["scales"][:, 8:] = joined(s.reshape(-1, 4, 4) >> 4, 2)


def q4_k(p: Parts, b: Blocks) -> None:
    b["d"], b["dmin"] = p.d, p.dmin
    b["qs"] = joined(p.codes.reshape(-1, 4, 2, 32) & 15, 4)
    both = np.stack([p.s.astype(np.uint8), p.m], axis=1)
    first, last = both[:, :, :4], both[:, :, 4:]
    b["scales"][:, :8] = (first | last >> 4 << 6).reshape(-1, 8)
    b["scales"][:, 8:] = joined(last & 15, 4)


def q5_k(p: Parts, b: Blocks) -> None:
    q4_k(p, b)
    b["qh"] = joined(p.codes.reshape(-1, 8, 32) >> 4, 1)


def q6_k(p: Parts, b: Blocks) -> None:
    b["d"], b["scales"] = p.d, p.s
    b["ql"] = joined(p.codes.reshape(-1, 2, 2, 64) & 15, 4)
    b["qh"] = joined(p.codes.reshape(-1, 2, 4, 32) >> 4, 2)


def iq4_xs(p: Parts, b: Blocks) -> None:
    b["d"] = p.d
    b["qs"] = joined(p.codes.reshape(-1, 8, 2, 16), 4)
    s = (p.s + 32).astype(np.uint16)
    b["scales_l"] = paired(s & 15)
    b["scales_h"] = np.bitwise_or.reduce(s >> 4 << np.arange(0, 16, 2, dtype=np.uint16), axis=1)


def iq3_xxs(p: Parts, b: Blocks) -> None:
    b["d"], b["qs"] = p.d, p.codes
    word = (p.s >> 1).astype(np.uint32) << 28
    for i in range(4):
        word |= (p.signs[:, i::4] & 127).astype(np.uint32) << np.uint32(7 * i)
    b["scales_and_signs"] = word


def iq3_s(p: Parts, b: Blocks) -> None:
    b["d"], b["signs"] = p.d, p.signs
    b["qs"] = p.codes & 255
    b["qh"] = bits(p.codes >> 8)
    b["scales"] = paired(p.s >> 1)


PACK: dict[str, Callable[[Parts, Blocks], None]] = {
    "q4_0": four_bits, "iq4_nl": four_bits, "q5_0": five_bits, "q4_1": four_bits_offset, "q5_1": five_bits_offset,
    "q2_k": q2_k, "q3_k": q3_k, "q4_k": q4_k, "q5_k": q5_k, "q6_k": q6_k,
    "iq4_xs": iq4_xs, "iq3_xxs": iq3_xxs, "iq3_s": iq3_s,
}  # fmt: skip
