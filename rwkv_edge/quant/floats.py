"""The plain float formats: f32, f16, bf16."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_F16 = float(np.finfo(np.float16).max)


def bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, as torch and ggml round; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    not_a_number = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return (np.where(not_a_number, bits | np.uint32(0x400000), rounded) >> np.uint32(16)).astype("<u2")


def encode_floats(values: NDArray[np.float32], format: str) -> NDArray[Any]:
    """`values` as "f32", "f16" or "bf16" (bits). Raises ValueError for a finite number that half precision cannot hold."""
    if format == "bf16":
        return bf16_bits(values)
    if format == "f32":
        return np.ascontiguousarray(values, "<f4")
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.isinf(halves).any() and not np.isinf(values).any():
        raise ValueError(f"has numbers beyond {LARGEST_F16:.0f}, which f16 cannot hold; bf16 can")
    return np.ascontiguousarray(halves)
