"""Entries to bytes: pieces of rows, encoded by a few threads and written in order.

What only a conversion needs is imported by the functions here, because every start of a model comes through here.
"""
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwkv_edge import auto
from rwkv_edge.backend import Encoder
from rwkv_edge.convert.entry import Entry
from rwkv_edge.errors import InputError, ModelFileError
from rwkv_edge.machine.mapping import release
from rwkv_edge.progress import Progress
from rwkv_edge.quant.floats import encode_floats
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights.tensor import Tensor

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

T = TypeVar("T")
Importance = Mapping[str, NDArray[np.float32]]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoder_for(formats: Iterable[str]) -> Encoder:
    """The fastest here where one of the formats has blocks; the others ask no encoder, and no backend is loaded for them."""
    if not all(FORMATS[format].is_float for format in formats):
        return auto.encoder()
    from rwkv_edge.quant.encode import encode as definition

    return definition


def write_entries(
    file: BinaryIO,
    entries: Iterable[Entry],
    alignment: int,
    *,
    encoder: Encoder,
    threads: int,
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> None:
    """The data of all entries, each padded to `alignment`.

    A few pieces are in memory at a time, and of the source only what they need. Raises ModelFileError where a weight
    cannot be encoded, InputError where an importance does not fit its tensor.
    """
    from concurrent.futures import ThreadPoolExecutor

    entries = list(entries)
    total, done = sum(entry.source_bytes for entry in entries), 0
    with ThreadPoolExecutor(threads) as pool:
        for data, source_bytes, padding in _in_order(_submitted(pool, entries, alignment, encoder, importance), 2 * threads):
            file.write(data.result().data)
            file.write(bytes(padding))
            done += source_bytes
            if progress:
                progress(done, total)


def _submitted(
    pool: "Executor", entries: Iterable[Entry], alignment: int, encoder: Encoder, importance: Importance | None
) -> "Iterator[tuple[Future[NDArray[Any]], int, int]]":
    """Begins a piece each time it is asked: (what waits for its bytes, bytes it had in the source, padding behind it)."""
    for entry in entries:
        columns = _importance_of(entry, importance)
        left = entry.source_bytes
        for piece in entry.pieces():
            left -= piece.nbytes
            yield pool.submit(encoded, piece, entry, encoder, columns), piece.nbytes, 0 if left else -entry.nbytes % alignment


def _in_order(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, each when `ahead` more have been taken: memory for these, and a drop of work left for each thread."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _importance_of(entry: Entry, importance: Importance | None) -> NDArray[np.float32] | None:
    """float32 [width]: how much an error in each column matters; None: all the same."""
    columns = importance.get(entry.parts[0].name) if importance else None
    if columns is None or FORMATS[entry.format].is_float:
        return None
    if columns.shape != entry.shape[-1:]:
        name, width = entry.parts[0].name, entry.shape[-1]
        raise InputError(f"the importance of {name} has shape {list(columns.shape)}, expected [{width}]")
    return np.ascontiguousarray(columns, np.float32)


def encoded(
    piece: Tensor, entry: Entry, encoder: Encoder, importance: NDArray[np.float32] | None = None
) -> NDArray[Any]:
    """The bytes of a piece, uint8 or plain floats; its pages of the source are given back.

    Raises ModelFileError for numbers that the entry's format cannot hold.
    """
    try:
        if piece.format == entry.format and entry.factor == 1:
            return np.array(piece.data, order="C")
        weights = piece.decode(np.float32)
        if entry.factor != 1:
            weights = weights * np.float32(entry.factor)
        if FORMATS[entry.format].is_float:
            return encode_floats(weights, entry.format)
        return encoder(entry.format, np.ascontiguousarray(weights).reshape(-1, piece.shape[-1]), importance)
    except ValueError as error:
        raise ModelFileError(f"tensor {piece.name} cannot become {entry.format}: {error}") from error
    finally:
        release(piece.data)
