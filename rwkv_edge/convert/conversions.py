"""Matrices in another format than the file's, where a strategy asks for one: what its words mean, and the conversion.

A word gives the same matrices as the file that `quantize` makes of that type: there is one table, `convert.mix`.
"""
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rwkv_edge.backend import Encoder
from rwkv_edge.convert.encoding import cores, encoded, encoder_for
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.mix import MIXES, mix_of
from rwkv_edge.errors import ModelFileError
from rwkv_edge.plan import Plan
from rwkv_edge.progress import Progress
from rwkv_edge.weights.tensor import Tensor, empty

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What a strategy's word for a format means.

    type: of the matrices, a key of `convert.mix.MIXES`.  precision: of activations and state; None: the backend's own.
    """

    type: str
    precision: str | None = None


PIECES_AHEAD = 2  # for each thread that converts

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
    return list(Conversions([(tensor, type) for tensor in tensors], threads=threads, progress=progress).each(tensors))


class Conversions:
    """Matrices that are converted when they are asked for.

    wanted: each with its type; a matrix that is not there stays as it is.  threads, progress: as of `converted_all`.
    """

    def __init__(
        self, wanted: Iterable[tuple[Tensor, str]] = (), *, threads: int | None = None, progress: Progress | None = None
    ) -> None:
        self._threads, self._progress = threads or cores(), progress
        self._expect((tensor, wanted_format(tensor, type)) for tensor, type in wanted)

    def format(self, tensor: Tensor) -> str:
        """What a matrix becomes, its numbers permitting; after `look` also where they do not."""
        return self._changing.get(id(tensor), (tensor, tensor.format))[1]

    def each(self, tensors: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        """The matrices as they become, in this order: each when it is asked for, or so far ahead that all threads work."""
        if not any(id(tensor) in self._changing for tensor in tensors):
            yield from tensors
            return
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and every model comes through here

        encoder = encoder_for(format for _, format in self._changing.values())
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                begun = (Conversion.begin(pool, tensor, self.format(tensor), encoder) for tensor in tensors)
                for conversion in _ahead(begun, PIECES_AHEAD * self._threads):
                    yield self._result(conversion)
            except BaseException:  # an interrupt does not wait for what has not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def look(self) -> None:
        """Convert all matrices, to know their formats; none is kept."""
        sources = [tensor for tensor, _ in self._changing.values()]
        self._expect([(source, made.format) for source, made in zip(sources, self.each(sources), strict=True)])

    def _expect(self, formats: Iterable[tuple[Tensor, str]]) -> None:
        self._changing = {id(tensor): (tensor, format) for tensor, format in formats if tensor.format != format}
        self._total, self._done = sum(tensor.nbytes for tensor, _ in self._changing.values()), 0

    def _result(self, conversion: "Conversion") -> Tensor:
        for future, nbytes in conversion.pieces:
            future.exception()
            self._done += nbytes
            if self._progress:
                self._progress(self._done, self._total)
        return conversion.result()


def _ahead(conversions: "Iterable[Conversion]", pieces: int) -> "Iterator[Conversion]":
    """The same, each when so many pieces of later ones have been begun."""
    waiting: deque[Conversion] = deque()
    for conversion in conversions:
        waiting.append(conversion)
        while sum(len(each.pieces) for each in waiting) - len(waiting[0].pieces) >= pieces:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


@dataclass(frozen=True, slots=True)
class Conversion:
    """A matrix on its way to another format.

    data: as in `Tensor`, filled by the pieces.  pieces: (what waits for a piece, its bytes in the source); none: it stays.
    """

    source: Tensor
    format: str
    data: NDArray[Any]
    pieces: "Sequence[tuple[Future[None], int]]"

    @classmethod
    def begin(cls, pool: "Executor", source: Tensor, format: str, encoder: Encoder) -> "Conversion":
        if format == source.format:
            return cls(source, format, source.data, ())
        entry = Entry(source.name, source.shape, format, (source,))
        data = empty(source.shape, format)
        pieces, row = [], 0
        for piece in entry.pieces():
            end = row + piece.shape[0]
            pieces.append((pool.submit(encode_into, data[row:end], piece, entry, encoder), piece.nbytes))
            row = end
        return cls(source, format, data, pieces)

    def result(self) -> Tensor:
        if self.format == self.source.format:
            return self.source
        try:
            for future, _ in self.pieces:
                future.result()
        except ModelFileError:  # numbers that the format cannot hold
            return converted(self.source, "f32") if self.format == "f16" else self.source
        return replace(self.source, format=self.format, data=self.data)


def encode_into(out: NDArray[Any], piece: Tensor, entry: Entry, encoder: Encoder) -> None:
    out[...] = encoded(piece, entry, encoder).reshape(out.shape)
