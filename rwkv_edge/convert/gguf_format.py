"""The bytes of a GGUF header, version 3. Format: the GGUF specification (docs/gguf.md in ggml)."""
import struct
from collections.abc import Iterable, Mapping, Sequence

from rwkv_edge.convert.entry import Entry
from rwkv_edge.quant.formats import FORMATS

ALIGNMENT = 32  # the default, so that no field has to tell it
VERSION = 3
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

Value = bool | int | float | str | Sequence[int] | Sequence[str]


def header(fields: Mapping[str, Value], entries: Sequence[Entry]) -> bytes:
    """Everything before the data, padded; the data follows in the order of `entries`, each padded to ALIGNMENT."""
    out = [struct.pack("<4sIQQ", b"GGUF", VERSION, len(entries), len(fields))]
    out += [_string(key) + _typed(value) for key, value in fields.items()]
    out += _directory(entries)
    size = sum(map(len, out))
    return b"".join([*out, bytes(-size % ALIGNMENT)])


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _directory(entries: Iterable[Entry]) -> list[bytes]:
    records, at = [], 0
    for entry in entries:
        axes, kind = len(entry.shape), FORMATS[entry.format].ggml_type
        records.append(_string(entry.name) + struct.pack(f"<I{axes}QIQ", axes, *reversed(entry.shape), kind, at))
        at += padded(entry.nbytes)
    return records


def _typed(value: Value) -> bytes:
    """Type and value: counts are 32 bits unsigned, integers in arrays signed, as llama.cpp's converter writes them."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    texts = [_string(item) for item in value if isinstance(item, str)]
    if texts or not value:
        return struct.pack("<IIQ", ARRAY, STRING, len(texts)) + b"".join(texts)
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, I32, len(value), *value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
