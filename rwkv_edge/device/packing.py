"""Weights in the layouts that device kernels read: 32-bit words, whatever the file's blocks were.

A matrix [n_out, n_in] becomes rows of units; a unit is 8 weights along a row, and the last is filled up with zeros.
    f32, f16, bf16   8, 4, 4 words a unit: the numbers themselves
    blocks           codes of 8 bits (signed) or 4 bits (unsigned), 2 or 1 words a unit, lowest bits first; behind all
                     codes a scale, maybe with an offset, for every run of 16 or 32 weights: weight = scale * code + offset
All block formats map exactly: codes are the file's integers; scales are float16 where the file has just those, else
float32 (a K-quant's product of two). Bits per weight are in the table below.
"""
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import unpack_blocks
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor

UNIT = 8
Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Layout:
    """code_bits: 32 f32, 16 f16 or bf16 (by `brain`), 8 or 4: codes.  The rest is of codes only.

    run: weights that share a scale.  half: scales (and offsets) are float16.  offset: there is one beside each scale.
    zero: what a 4-bit code counts from; it becomes part of the offset.
    """

    code_bits: int
    brain: bool = False
    run: int = 32
    half: bool = True
    offset: bool = False
    zero: int = 0

    @property
    def name(self) -> str:
        """The kernel file that reads it."""
        return {32: "f32", 16: "bf16" if self.brain else "f16", 8: "codes8", 4: "codes4"}[self.code_bits]

    @property
    def unit_words(self) -> int:
        return UNIT * self.code_bits // 32

    def row_words(self, n_in: int) -> int:
        """Words of a row's numbers or codes."""
        return -(-n_in // UNIT) * self.unit_words

    def scale_words(self, n_out: int, n_in: int) -> int:
        """Words of all scales and offsets."""
        if self.code_bits >= 16:
            return 0
        bits = n_out * (n_in // self.run) * (16 if self.half else 32) * (2 if self.offset else 1)
        return -(-bits // 32)

    def words(self, n_out: int, n_in: int) -> int:
        """Of a matrix, filled up to whole 16-byte lines."""
        return -(-(n_out * self.row_words(n_in) + self.scale_words(n_out, n_in)) // 4) * 4


LAYOUTS: dict[str, Layout] = {
    "f32": Layout(32),
    "f16": Layout(16),
    "bf16": Layout(16, brain=True),
    "q8_0": Layout(8),  # 8.5 bits a weight, as in the file
    "q5_0": Layout(8),  # 8.5 (5.5)
    "q5_1": Layout(8, offset=True),  # 9 (6)
    "q4_0": Layout(4, offset=True, zero=8),  # 5 (4.5)
    "q4_1": Layout(4, offset=True),  # 5 (5)
    "iq4_nl": Layout(8),  # 8.5 (4.5)
    "q2_k": Layout(4, run=16, half=False, offset=True),  # 8 (2.6)
    "q3_k": Layout(4, run=16, half=False, offset=True, zero=4),  # 8 (3.4)
    "q4_k": Layout(4, half=False, offset=True),  # 6 (4.5)
    "q5_k": Layout(8, half=False, offset=True),  # 10 (5.5)
    "q6_k": Layout(8, run=16, half=False),  # 10 (6.6)
    "iq4_xs": Layout(8, half=False),  # 9 (4.25)
    "iq3_xxs": Layout(8, half=False),  # 9 (3.1)
    "iq3_s": Layout(8, half=False),  # 9 (3.4)
}
ROWS_AT_ONCE = 1 << 22  # weights unpacked at a time


def layout_of(tensor: Tensor) -> Layout:
    return LAYOUTS[tensor.format]


def pack(tensor: Tensor, begin: int, end: int) -> Words:
    """Rows `begin` to `end` of a matrix, [layout.words(end - begin, n_in)] words."""
    layout, n_in = layout_of(tensor), tensor.shape[1]
    out = np.zeros(layout.words(end - begin, n_in), "<u4")
    codes = out[: (end - begin) * layout.row_words(n_in)].reshape(end - begin, -1)
    if layout.code_bits >= 16:
        numbers = codes.view(f"<u{layout.code_bits // 8}")
        numbers[:, :n_in] = tensor.data[begin:end].view(numbers.dtype)
        return out
    step = max(1, ROWS_AT_ONCE // n_in)
    scales = []
    for at in range(begin, end, step):
        stop = min(end, at + step)
        scales.append(_pack_blocks(tensor.data[at:stop], tensor.format, layout, codes[at - begin : stop - begin]))
    packed = np.concatenate(scales).reshape(-1).view(np.uint8)
    out[codes.size :].view(np.uint8)[: packed.size] = packed
    return out


def _pack_blocks(data: NDArray[np.uint8], format: str, layout: Layout, codes: Words) -> NDArray[Any]:
    """Writes the codes; returns [runs] scales, or [runs, 2] scales and offsets."""
    blocks = np.ascontiguousarray(data).reshape(-1, FORMATS[format].block_bytes)
    unpacked = unpack_blocks(blocks, format)
    lanes, scales, offsets = unpacked.lanes, unpacked.scales, unpacked.offsets
    if layout.zero:
        lanes = lanes + np.int8(layout.zero)
        offsets = -np.float32(layout.zero) * scales
    flat = np.ascontiguousarray(lanes).reshape(-1).view(np.uint8)
    if layout.code_bits == 4:
        flat = flat[0::2] | flat[1::2] << np.uint8(4)
    codes.reshape(-1).view(np.uint8)[...] = flat
    wide = scales if offsets is None else np.stack([scales, offsets], axis=-1)
    with np.errstate(over="ignore"):
        return wide.astype("<f2" if layout.half else "<f4").reshape(-1)
