"""Damaged files for any format: `mutants` makes them, `assert_one_clear_error` says what a reader may do with them.

A reader either opens the file or raises ModelFileError with one line that names the file. Nothing else: no other
exception, no hang, no large allocation.
"""
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.errors import ModelFileError

SECONDS_PER_FILE = 20.0  # milliseconds here; an emulated board is a hundred times slower
BYTES_PER_FILE = 32 << 20

# Values that break length, count, offset and index fields, as the bytes that replace some of the file's.
EDGE_NUMBERS = (
    0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip


def mutants(data: bytes, rng: random.Random, n: int, hot: Sequence[range] = ()) -> Iterator[bytes]:
    """`n` damaged copies of `data`, damage of every kind in turn.

    hot: parts of the file where structure lies (headers, directories); most of the damage goes there.
    """
    for i in range(n):
        yield KINDS[i % len(KINDS)](data, rng, hot)


def truncations(data: bytes, rng: random.Random, n: int) -> Iterator[bytes]:
    """`data` cut short: at every one of the first and last bytes, and at `n` random places."""
    edges = [*range(min(len(data), 24)), *range(max(0, len(data) - 24), len(data))]
    for size in edges + [rng.randrange(len(data)) for _ in range(n)]:
        yield data[:size]


def _place(data: bytes, rng: random.Random, hot: Sequence[range]) -> int:
    if hot and rng.random() < 0.9:
        return rng.choice(rng.choice(hot))
    return rng.randrange(len(data))


def _flip_bits(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[_place(data, rng, hot)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set_bytes(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        out[_place(data, rng, hot)] = rng.randrange(256)
    return bytes(out)


def _set_number(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    width, form = rng.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q")))
    at = _place(data, rng, hot)
    number = struct.pack(form, rng.choice(EDGE_NUMBERS) & ((1 << 8 * width) - 1))
    return (data[:at] + number + data[at + width :])[: len(data)]


def _delete(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    at = _place(data, rng, hot)
    return data[:at] + data[at + rng.choice((1, 1, 4, 8, 100)) :]


def _insert(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    at = _place(data, rng, hot)
    return data[:at] + rng.randbytes(rng.choice((1, 1, 4, 8, 100))) + data[at:]


def _copy_part(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    """One piece of structure over another: a plausible record in the wrong place."""
    source, target, size = _place(data, rng, hot), _place(data, rng, hot), rng.randrange(1, 64)
    piece = data[source : source + size]
    return data[:target] + piece + data[target + len(piece) :]


def _exchange_digits(data: bytes, rng: random.Random, hot: Sequence[range]) -> bytes:
    """Another digit in a textual number (JSON offsets, storage keys); elsewhere the same as a byte change."""
    for _ in range(64):
        at = _place(data, rng, hot)
        if 0x30 <= data[at] <= 0x39:
            return data[:at] + rng.choice(b"-.0123456789e").to_bytes(1, "little") + data[at + 1 :]
    return _set_bytes(data, rng, hot)


KINDS: tuple[Callable[[bytes, random.Random, Sequence[range]], bytes], ...] = (
    _flip_bits, _set_bytes, _set_number, _delete, _insert, _copy_part, _exchange_digits,
)  # fmt: skip


def assert_one_clear_error(reader: Callable[[Path], Any], path: Path) -> str | None:
    """Open `path` with `reader`: None when it opens, else the message of the one clear ModelFileError; in bounded time.

    Memory is bounded too while tracemalloc runs.
    """
    __tracebackhide__ = True
    start = time.perf_counter()
    message = None
    try:
        reader(path)
    except ModelFileError as error:
        message = str(error)
        if "\n" in message or "\r" in message or len(message) > 1000 or path.name not in message:
            pytest.fail(f"not one clear line that names the file: {message[:2000]!r}")
    except RecursionError:
        pytest.fail("RecursionError: the reader follows the file's nesting with its own stack")
    seconds = time.perf_counter() - start
    assert seconds < SECONDS_PER_FILE, f"took {seconds:.1f} s"
    if tracemalloc.is_tracing():
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert peak < BYTES_PER_FILE, f"allocated {peak >> 20} MiB"
    return message


def must_refuse(reader: Callable[[Path], Any], path: Path) -> str:
    """The one clear error `reader` must raise for `path`."""
    message = assert_one_clear_error(reader, path)
    assert message is not None, f"{path} was opened"
    return message


def assert_survives(reader: Callable[[Path], Any], path: Path, damaged: Iterator[bytes]) -> int:
    """Write each damaged file to `path` and open it; returns how many of them were refused."""
    refused = 0
    for data in damaged:
        # A new file each time: the tensors of a mutant that opened may still map the one before.
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        refused += assert_one_clear_error(reader, path) is not None
    return refused
