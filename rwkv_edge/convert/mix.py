"""What a file type means: the format of each kind of tensor.

The types that llama-quantize has are as it makes them of an RWKV: matrices and embedding in one format, the head in Q6_K
(Q5_K for iq3_xxs), low-rank maps and vectors in floats. `q8` and `q4` are this project's own, named after the bits of most
weights. `q4` gives more where 4 bits cost most in divergence per byte saved (measured: bench/results/policy.md): embedding and
head, 7 times the mean, have 8 bits, as in `q8`; the time-mix's key, value and output, 1.3 to 1.7 times, have 5.
"""
import re
from dataclasses import dataclass

from rwkv_edge.errors import InputError
from rwkv_edge.quant.formats import FORMATS


@dataclass(frozen=True, slots=True)
class Mix:
    """A file type.

    matrices: format of the square and feed-forward matrices.  head, embedding: of these two.
    file_type: the number that general.file_type has in a GGUF file.
    exceptions: (pattern that a matrix's whole name, ours, must match, its format); the first that matches wins.
    """

    matrices: str
    head: str
    embedding: str
    file_type: int
    exceptions: tuple[tuple[str, str], ...] = ()

    @property
    def is_float(self) -> bool:
        return FORMATS[self.matrices].is_float

    def wanted(self, name: str) -> str:
        """The format of a matrix, by its name (ours)."""
        found = next((format for pattern, format in self.exceptions if re.fullmatch(pattern, name)), None)
        return found or {"emb.weight": self.embedding, "head.weight": self.head}.get(name, self.matrices)

    def format(self, name: str, shape: tuple[int, ...], stored: str) -> str:
        """Of the tensor with this name (ours) and shape, which is `stored` in the source.

        Vectors, token shift and what makes a decay are always f32. The other low-rank maps stay floats as they are stored:
        they are small, and their errors go into the state.
        """
        if MATRIX.fullmatch(name):
            return fitting(self.wanted(name), shape[-1])
        if len(shape) < 2 or not LOW_RANK.fullmatch(name):
            return "f32"
        if self.is_float:
            return self.matrices
        return stored if FORMATS[stored].is_float else "f16"


MATRIX = re.compile(r"emb\.weight|head\.weight|blocks\.\d+\.(att|ffn)\.(receptance|key|value|gate|output)\.weight")
LOW_RANK = re.compile(r"blocks\.\d+\.att\.[avg][12]")  # version 7's, less those of the decay

MIXES: dict[str, Mix] = {
    "f32": Mix("f32", "f32", "f32", 0),
    "f16": Mix("f16", "f16", "f16", 1),
    "bf16": Mix("bf16", "bf16", "bf16", 32),
    "q8_0": Mix("q8_0", "q8_0", "q8_0", 7),
    "q6_k": Mix("q6_k", "q6_k", "q6_k", 18),
    "q5_k_m": Mix("q5_k", "q6_k", "q5_k", 17),
    "q5_k_s": Mix("q5_k", "q6_k", "q5_k", 16),
    "q5_1": Mix("q5_1", "q6_k", "q5_1", 9),
    "q5_0": Mix("q5_0", "q6_k", "q5_0", 8),
    "q4_k_m": Mix("q4_k", "q6_k", "q4_k", 15),
    "q4_k_s": Mix("q4_k", "q6_k", "q4_k", 14),
    "q4_1": Mix("q4_1", "q6_k", "q4_1", 3),
    "q4_0": Mix("q4_0", "q6_k", "q4_0", 2),
    "iq4_nl": Mix("iq4_nl", "q6_k", "iq4_nl", 25),
    "iq4_xs": Mix("iq4_xs", "q6_k", "iq4_xs", 30),
    "q3_k_m": Mix("q3_k", "q6_k", "q3_k", 12),
    "q3_k_s": Mix("q3_k", "q6_k", "q3_k", 11),
    "q3_k_l": Mix("q3_k", "q6_k", "q3_k", 13),
    "q2_k": Mix("q2_k", "q6_k", "q2_k", 10),
    "iq3_s": Mix("iq3_s", "q6_k", "iq3_s", 26),
    "iq3_m": Mix("iq3_s", "q6_k", "iq3_s", 27),
    "iq3_xs": Mix("iq3_s", "q6_k", "iq3_s", 22),
    "iq3_xxs": Mix("iq3_xxs", "q5_k", "iq3_s", 23),
    # Ours: embedding and head never below 8 bits.
    "q8": Mix("q8_0", "q8_0", "q8_0", 7),
    "q4": Mix("q4_k", "q8_0", "q8_0", 15, ((r"blocks\.\d+\.att\.(key|value|output)\.weight", "q5_k"),)),
}
DEFAULT = "q4"

# Where rows are no whole blocks of 256 weights: as llama-quantize substitutes.
SUBSTITUTES = {
    "q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0", "q3_k": "q4_0", "q2_k": "q4_0",
    "iq4_xs": "iq4_nl", "iq3_s": "iq4_nl", "iq3_xxs": "iq4_nl",
}  # fmt: skip


def mix_of(type: str) -> Mix:
    """Raises InputError for a type that is none."""
    if type.lower() not in MIXES:
        raise InputError(f"unknown type {type!r:.40}: expected one of {' '.join(MIXES)}")
    return MIXES[type.lower()]


def fitting(format: str, width: int) -> str:
    """`format`, or what stands in for it where rows of `width` weights are no whole blocks of it."""
    if width % FORMATS[format].block_size:
        format = SUBSTITUTES.get(format, format)
    return "f16" if width % FORMATS[format].block_size else format
