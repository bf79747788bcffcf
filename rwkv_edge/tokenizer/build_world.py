"""Makes `world.bin` from the vocabulary text file of the `rwkv` package on PyPI (Apache-2.0).

Get the file with `pip download --no-deps rwkv==0.8.32` and unzip the wheel, then
`python -m rwkv_edge.tokenizer.build_world rwkv/rwkv_vocab_v20230424.txt`.
"""

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from rwkv_edge.tokenizer.vocab_text import read_vocab_text
from rwkv_edge.tokenizer.world import COUNTS, HEADER, MAGIC, WORLD_FILE, unpack


def pack(tokens: Sequence[bytes]) -> bytes:
    """The packed form (see `world.py`) of tokens sorted by length, each 1 to 255 bytes."""
    if list(tokens) != sorted(tokens, key=len) or not all(0 < len(token) < 256 for token in tokens):
        raise ValueError("tokens must have 1 to 255 bytes and be sorted by length")
    by_length = [[token for token in tokens if len(token) == length] for length in range(256)]
    columns = b"".join(bytes(column) for group in by_length for column in zip(*group, strict=True))
    packed = zlib.compress(COUNTS.pack(*map(len, by_length)) + columns, 9)
    return HEADER.pack(MAGIC, len(tokens), zlib.crc32(packed)) + packed


def main(source: str, target: str = str(WORLD_FILE)) -> None:
    """Packs the text file `source` into `target` and reads it back."""
    by_id = read_vocab_text(source)
    tokens = [by_id[i] for i in sorted(by_id)]
    if sorted(by_id) != list(range(1, len(by_id) + 1)):
        raise SystemExit(f"{source}: expected the ids 1, 2, 3, ... without a gap")
    data = pack(tokens)
    if unpack(data, target) != tokens:
        raise SystemExit("the packed vocabulary does not read back")
    Path(target).write_bytes(data)
    print(f"{target}: {len(tokens)} tokens in {len(data)} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
