"""The World vocabulary, which RWKV-5, 6 and 7 models are trained with, from the packed copy beside this file.

`world.bin`, little-endian: magic `RWKVTOK1`, uint32 number of tokens, uint32 CRC-32 of what follows, then a zlib stream
of 256 uint32 (how many tokens have 0, 1, ... 255 bytes) and, for each length in turn, all first bytes, all second
bytes and so on. Tokens are in id order, ids start at 1, and the official file is sorted by length. Bytes of one
position, side by side, compress far better than words do, and slices put them back at C speed.
"""

import struct
import zlib
from functools import cache
from itertools import accumulate
from pathlib import Path

from rwkv_edge.errors import TokenizerError
from rwkv_edge.tokenizer.trie import TrieTokenizer

MAGIC = b"RWKVTOK1"
HEADER = struct.Struct("<8sII")
COUNTS = struct.Struct("<256I")
WORLD_FILE = Path(__file__).with_name("world.bin")
WORLD_ROWS = 65536
"""Embedding rows of a World model. Id 0 ends a document, the file's tokens are 1 to 65529, the rest is unused."""


@cache
def world_tokenizer(vocab_size: int = WORLD_ROWS) -> TrieTokenizer:
    """The World tokenizer for a model with `vocab_size` embedding rows; built on the first call, then shared.

    Ids and bytes are those of `rwkv_vocab_v20230424.txt`. Tokens beyond `vocab_size` are left out.
    Raises TokenizerError where the packed copy is damaged.
    """
    try:
        data = WORLD_FILE.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{WORLD_FILE} cannot be read ({error.strerror}): reinstall rwkv-edge") from None
    tokens = [b"", *unpack(data, str(WORLD_FILE))][:vocab_size]
    return TrieTokenizer(tokens + [b""] * (vocab_size - len(tokens)))


def unpack(data: bytes, source: str) -> list[bytes]:
    """The tokens of ids 1, 2, ... in a packed vocabulary. Raises TokenizerError naming `source` if it is damaged."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise TokenizerError(f"{source} is not a packed vocabulary: expected it to start with {MAGIC!r}")
    _, count, checksum = HEADER.unpack_from(data)
    packed = data[HEADER.size :]
    if zlib.crc32(packed) != checksum:
        raise TokenizerError(f"{source} is damaged, its checksum differs: reinstall rwkv-edge")
    try:
        columns = zlib.decompress(packed)
        counts = COUNTS.unpack_from(columns)
    except (zlib.error, struct.error):
        raise TokenizerError(f"{source} is damaged, its token table cannot be read: reinstall rwkv-edge") from None
    sizes = [length * n for length, n in enumerate(counts)]
    if sum(counts) != count or sum(sizes) != len(columns) - COUNTS.size:
        raise TokenizerError(f"{source} is damaged, its token counts disagree: reinstall rwkv-edge")
    tokens: list[bytes] = []
    starts = accumulate(sizes, initial=COUNTS.size)
    for length, (start, n) in enumerate(zip(starts, counts, strict=False)):
        tokens += _rows(columns[start : start + length * n], length)
    return tokens


def _rows(columns: bytes, length: int) -> list[bytes]:
    if not columns:
        return []
    n = len(columns) // length
    buffer = bytearray(len(columns))
    for position in range(length):
        buffer[position::length] = columns[position * n : (position + 1) * n]
    rows = bytes(buffer)
    return [rows[i : i + length] for i in range(0, len(rows), length)]
