"""The table of weight formats: how many weights share a block, and how many bytes a block takes.

Source: the GGUF specification and ggml's type table (`ggml_type` ids and block sizes).
"""
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorageFormat:
    """One way to store weights.

    name: lower-case ggml name.  ggml_type: its id in GGUF files.
    block_size: weights per block, always along the last axis (1 for plain floats).  block_bytes: bytes per block.
    """

    name: str
    ggml_type: int
    block_size: int
    block_bytes: int

    @property
    def is_float(self) -> bool:
        """Plain floats: any strides are possible, no blocks."""
        return self.block_size == 1

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` weights; `width` must be a multiple of `block_size`."""
        return width // self.block_size * self.block_bytes

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of `shape`; raises ValueError where its rows are not whole blocks."""
        if shape[-1] % self.block_size:
            raise ValueError(f"rows of {shape[-1]} weights, expected a multiple of {self.block_size} for {self.name}")
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])


_TABLE = (
    StorageFormat("f32", 0, 1, 4),
    StorageFormat("f16", 1, 1, 2),
    StorageFormat("bf16", 30, 1, 2),
    StorageFormat("q4_0", 2, 32, 18),
    StorageFormat("q4_1", 3, 32, 20),
    StorageFormat("q5_0", 6, 32, 22),
    StorageFormat("q5_1", 7, 32, 24),
    StorageFormat("q8_0", 8, 32, 34),
    StorageFormat("q2_k", 10, 256, 84),
    StorageFormat("q3_k", 11, 256, 110),
    StorageFormat("q4_k", 12, 256, 144),
    StorageFormat("q5_k", 13, 256, 176),
    StorageFormat("q6_k", 14, 256, 210),
    StorageFormat("iq3_xxs", 18, 256, 98),
    StorageFormat("iq4_nl", 20, 32, 18),
    StorageFormat("iq3_s", 21, 256, 110),
    StorageFormat("iq4_xs", 23, 256, 136),
)

FORMATS: dict[str, StorageFormat] = {f.name: f for f in _TABLE}
BY_GGML_TYPE: dict[int, StorageFormat] = {f.ggml_type: f for f in _TABLE}

# ggml types that exist but that no RWKV file people have uses; named so that the refusal can say what was found.
UNSUPPORTED_GGML_TYPES: dict[int, str] = {
    4: "q4_2", 5: "q4_3", 9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 19: "iq1_s", 22: "iq2_s",
    24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m",
    31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8", 34: "tq1_0", 35: "tq2_0",
    36: "iq4_nl_4_4", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8", 39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
