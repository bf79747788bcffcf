"""Matrices in another format than the file's, where a strategy asks for one: what its words mean, and the conversion.

A word gives the same matrices as the file that `quantize` makes of that type: there is one table, `convert.mix`.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.convert.encoding import Progress, cores, encoded
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.mix import MIXES, mix_of
from rwkv_edge.errors import ModelFileError
from rwkv_edge.plan import Plan
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import FLOAT_STORAGE, Tensor

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What a strategy's word for a format means.

    type: of the matrices, a key of `convert.mix.MIXES`.  precision: of activations and state; None: the backend's own.
    """

    type: str
    precision: str | None = None


WORDS: dict[str, WeightFormat] = {
    "fp32": WeightFormat("f32", "fp32"),
    "fp16": WeightFormat("f16"),
    "bf16": WeightFormat("bf16"),
    "int8": WeightFormat("q8_0"),
    "fp16i8": WeightFormat("q8_0"),  # ChatRWKV's words for 8 bits
    "fp32i8": WeightFormat("q8_0"),
    "q5_k": WeightFormat("q5_k_m"),
    "q4_k": WeightFormat("q4_k_m"),
    "q3_k": WeightFormat("q3_k_m"),
    **{type: WeightFormat(type) for type, mix in MIXES.items() if not mix.is_float},
}


def converted_plan(plan: Plan, type: str, *, threads: int | None = None, progress: Progress | None = None) -> Plan:
    """The plan with its matrices as `converted_all` makes them."""
    matrices = iter(converted_all(list(plan.weights()), type, threads=threads, progress=progress))
    return plan.with_weights(lambda _: next(matrices))


def wanted_format(tensor: Tensor, type: str) -> str:
    """The format that `converted` gives a matrix, its numbers permitting. Raises InputError for a type that is none."""
    return mix_of(type).format(tensor.name, tensor.shape, tensor.format)


def converted(tensor: Tensor, type: str) -> Tensor:
    """One matrix, as `converted_all` makes it."""
    return converted_all([tensor], type, threads=1)[0]


def converted_all(
    tensors: Sequence[Tensor], type: str, *, threads: int | None = None, progress: Progress | None = None
) -> list[Tensor]:
    """The matrices in the formats that they have in a file of `type`, with all numbers that these can hold.

    f16: a matrix with numbers beyond its range becomes f32. Blocks: one with infinities or NaN stays as stored.
    threads: that encode; None: all cores this process may use. Beside the results some pieces of a few MB are in memory, and
    of a mapped source no more than these.  progress: called with the bytes of the source that are done, and all of them.
    Raises InputError for a type that is none.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and `import rwkv_edge` comes through here

    wanted = [wanted_format(tensor, type) for tensor in tensors]
    total = sum(t.nbytes for t, format in zip(tensors, wanted, strict=True) if t.format != format)
    if not total:
        return list(tensors)
    results, done = [], 0
    with ThreadPoolExecutor(threads or cores()) as pool:
        conversions = [Conversion.begin(pool, t, f) if t.format != f else t for t, f in zip(tensors, wanted, strict=True)]
        try:
            for conversion in conversions:
                if isinstance(conversion, Tensor):
                    results.append(conversion)
                    continue
                for future, nbytes in conversion.pieces:
                    future.exception()
                    done += nbytes
                    if progress:
                        progress(done, total)
                results.append(conversion.result())
        except BaseException:  # an interrupt does not wait for what has not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


@dataclass(frozen=True, slots=True)
class Conversion:
    """A matrix on its way to another format.

    data: as in `Tensor`, filled by the pieces.  pieces: (what waits for a piece, its bytes in the source).
    """

    source: Tensor
    format: str
    data: NDArray[Any]
    pieces: "Sequence[tuple[Future[None], int]]"

    @classmethod
    def begin(cls, pool: "Executor", source: Tensor, format: str) -> "Conversion":
        entry = Entry(source.name, source.shape, format, (source,))
        data = empty(source.shape, format)
        pieces, row = [], 0
        for piece in entry.pieces():
            end = row + piece.shape[0]
            pieces.append((pool.submit(encode_into, data[row:end], piece, entry), piece.nbytes))
            row = end
        return cls(source, format, data, pieces)

    def result(self) -> Tensor:
        try:
            for future, _ in self.pieces:
                future.result()
        except ModelFileError:  # numbers that the format cannot hold
            return converted(self.source, "f32") if self.format == "f16" else self.source
        return replace(self.source, format=self.format, data=self.data)


def empty(shape: tuple[int, ...], format: str) -> NDArray[Any]:
    """`Tensor.data` for this shape and format."""
    if FORMATS[format].is_float:
        return np.empty(shape, FLOAT_STORAGE[format])
    return np.empty((*shape[:-1], FORMATS[format].row_bytes(shape[-1])), np.uint8)


def encode_into(out: NDArray[Any], piece: Tensor, entry: Entry) -> None:
    out[...] = encoded(piece, entry).reshape(out.shape)
