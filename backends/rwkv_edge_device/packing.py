"""Weights in the layouts that device kernels read: 32-bit words, whatever the file's blocks were.

A matrix [n_out, n_in] becomes rows of units; a unit is 8 weights along a row, and the last is filled up with zeros.
    f32, f16, bf16   8, 4, 4 words a unit: the numbers themselves
    blocks           integer codes, behind all of them what scales them: weight = scale * (code - zero) + offset
Codes are signed bytes, two words a unit, or 4 to 6 bits without a sign: a word a unit for the low four, lowest first, and
behind all those a plane of the others, in which 2 or 4 units share a word (`_high_plane`).
Scales, and offsets where there are some, are float16 for each run of 16 or 32 weights; or, for blocks of 256, bytes for
each run, times a float32 for each block.
All formats map exactly: codes, float16 scales and bytes are the file's own integers and numbers.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.quant.decode import LAYOUTS as BLOCK_LAYOUTS
from rwkv_edge.quant.decode import unpack_blocks
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.unpacked import Unpacked, f32
from rwkv_edge.weights.tensor import Tensor

UNIT = 8
Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Layout:
    """code_bits: 32 f32, 16 f16 or bf16 (by `brain`), 8 to 4: codes.  The rest is of codes only.

    run: weights that share a scale.  block: weights that share a factor of their scales; 0: there is none.  offset: there is
    one beside each scale.  zero: what codes without a sign count from.
    """

    code_bits: int
    brain: bool = False
    run: int = 32
    block: int = 0
    offset: bool = False
    zero: int = 0

    @property
    def name(self) -> str:
        """The kernel file that reads it."""
        return {32: "f32", 16: "bf16" if self.brain else "f16", 8: "codes8"}.get(self.code_bits, "codes4")

    def code_words(self, n_out: int, n_in: int) -> int:
        """Words of a matrix's numbers or codes."""
        return n_out * -(-n_in // UNIT) * self.code_bits // 4

    def scale_words(self, n_out: int, n_in: int) -> int:
        """Words of all scales and offsets."""
        if self.code_bits >= 16:
            return 0
        several = 2 if self.offset else 1
        if self.block:
            return several * n_out * (n_in // self.run // 4 + n_in // self.block)
        return -(-several * n_out * (n_in // self.run) // 2)

    def words(self, n_out: int, n_in: int) -> int:
        """Of a matrix, filled up to whole 16-byte lines."""
        return -(-(self.code_words(n_out, n_in) + self.scale_words(n_out, n_in)) // 4) * 4


LAYOUTS: dict[str, Layout] = {
    "f32": Layout(32),
    "f16": Layout(16),
    "bf16": Layout(16, brain=True),
    "q8_0": Layout(8),  # 8.5 bits a weight, as in the file
    "q5_0": Layout(5, zero=16),  # 5.5 (5.5)
    "q5_1": Layout(5, offset=True),  # 6 (6)
    "q4_0": Layout(4, zero=8),  # 4.5 (4.5)
    "q4_1": Layout(4, offset=True),  # 5 (5)
    "iq4_nl": Layout(8),  # 8.5 (4.5)
    "q2_k": Layout(4, run=16, block=256, offset=True),  # 5.25 (2.6)
    "q3_k": Layout(4, run=16, block=256, zero=4),  # 4.6 (3.4)
    "q4_k": Layout(4, block=256, offset=True),  # 4.75 (4.5)
    "q5_k": Layout(5, block=256, offset=True),  # 5.75 (5.5)
    "q6_k": Layout(6, run=16, block=256, zero=32),  # 6.6 (6.6)
    "iq4_xs": Layout(8, block=256),  # 8.4 (4.25)
    "iq3_xxs": Layout(8, block=256),  # 8.4 (3.1)
    "iq3_s": Layout(8, block=256),  # 8.4 (3.4)
}
BLOCK_SCALE = {"iq3_xxs": np.float32(0.25)}  # times the file's: its runs' scales are odd numbers of quarters
ROWS_AT_ONCE = 1 << 22  # weights unpacked at a time


def layout_of(tensor: Tensor) -> Layout:
    return LAYOUTS[tensor.format]


def pack(tensor: Tensor, begin: int, end: int, out: Words | None = None) -> Words:
    """Rows `begin` to `end` of a matrix, [layout.words(end - begin, n_in)] words. out: where they are written."""
    layout, n_in = layout_of(tensor), tensor.shape[1]
    if out is None:
        out = np.empty(layout.words(end - begin, n_in), "<u4")
    codes = out[: layout.code_words(end - begin, n_in)]
    out[0 if n_in % UNIT else codes.size :] = 0  # what is not written below
    if layout.code_bits >= 16:
        numbers = codes.view(f"<u{layout.code_bits // 8}").reshape(end - begin, -1)
        numbers[:, :n_in] = tensor.data[begin:end].view(numbers.dtype)
        return out
    step = max(1, ROWS_AT_ONCE // n_in)
    parts = []
    for at in range(begin, end, step):
        stop = min(end, at + step)
        blocks = np.ascontiguousarray(tensor.data[at:stop]).reshape(-1, FORMATS[tensor.format].block_bytes)
        with np.errstate(all="ignore"):  # damaged scales give infinities and NaN
            unpacked = unpack_blocks(blocks, tensor.format)
            parts.append(_scales(unpacked, blocks, tensor.format, layout))
        _pack_codes(unpacked, layout, codes, slice(at - begin, stop - begin), n_in)
    scales = np.concatenate([part for section in zip(*parts, strict=True) for part in section])
    out[codes.size :].view(np.uint8)[: scales.size] = scales
    return out


def _pack_codes(unpacked: Unpacked, layout: Layout, codes: Words, rows: slice, n_in: int) -> None:
    """Writes those of some rows of a matrix. codes: of all rows."""
    flat = (unpacked.lanes + np.int8(layout.zero)).reshape(-1).view(np.uint8)
    if layout.code_bits == 8:
        codes.view(np.uint8).reshape(-1, n_in)[rows] = flat.reshape(-1, n_in)
        return
    low, high = np.split(codes, [codes.size * 4 // layout.code_bits])
    low.view(np.uint8).reshape(-1, n_in // 2)[rows] = (flat[0::2] & 15 | flat[1::2] << 4).reshape(-1, n_in // 2)
    if layout.code_bits > 4:
        row_bytes = n_in // UNIT * (layout.code_bits - 4)
        high.view(np.uint8).reshape(-1, row_bytes)[rows] = _high_plane(flat, layout.code_bits - 4).reshape(-1, row_bytes)


def _high_plane(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes with the `bits` of codes above the fourth.

    Byte i of a word has those of codes 2i and 2i + 1 of a unit, above them those of the next unit.
    """
    share = 4 // bits  # units of a word
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(share, 1, 2)
    high: NDArray[np.uint8] = np.bitwise_or.reduce((codes >> 4).reshape(-1, share, 4, 2) << shifts, axis=(1, 3))
    return high


def _scales(unpacked: Unpacked, blocks: NDArray[np.uint8], format: str, layout: Layout) -> list[NDArray[np.uint8]]:
    """The bytes of each section: float16 [runs, 1 or 2]; or int8 [runs, 1 or 2], and float32 [blocks, 1 or 2]."""
    numbers = [unpacked.scales] if unpacked.offsets is None else [unpacked.scales, unpacked.offsets]
    if not layout.block:
        return [_bytes_of(numbers, "<f2")]
    fields = blocks.view(BLOCK_LAYOUTS[format])[:, 0]
    factors = [f32(fields["d"]) * BLOCK_SCALE.get(format, np.float32(1))]
    if layout.offset:
        factors.append(-f32(fields["dmin"]))
    # The file's own integers: a float16 times a small integer is exact in float32.
    integers = [np.nan_to_num(np.rint(n / factor)) for n, factor in zip(numbers, factors, strict=True)]
    return [_bytes_of(integers, "i1"), _bytes_of(factors, "<f4")]


def _bytes_of(columns: list[NDArray[np.float32]], dtype: str) -> NDArray[np.uint8]:
    """Arrays of one shape, number beside number."""
    return np.stack(columns, axis=-1).astype(dtype).reshape(-1).view(np.uint8)
