"""Damaged GGUF files open or are refused with one clear sentence: nothing else, quickly and in little memory."""
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.weights import open_weights
from tests.checkpoints.gguf import blob, file_bytes, metadata, renamed, stored_as, write_gguf
from tests.checkpoints.tiny import tiny
from tests.weights.mutation import EDGE_NUMBERS, assert_survives, mutants, truncations


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model: most of the file is header, which is where damage matters."""
    checkpoint = tiny("7", n_layer=1, n_embd=32, n_ffn=32, n_vocab=20, ranks=(("w", 2), ("a", 2), ("v", 2), ("g", 2)))
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", checkpoint, "q8_0").read_bytes()


ODD_VALUES: tuple[Any, ...] = (0, -1, 1 << 31, 1.5, float("nan"), "", "rwkv7", [], ["a"], [[1], [2]], True)


def header_of(data: bytes) -> range:
    return range(data.rindex(b"blk.0.") + 80)


def test_truncated_files(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    refused = assert_survives(open_weights, path, truncations(model, random.Random(1), 300))
    assert refused >= 300


def test_damage_of_every_kind(model: bytes, tmp_path: Path) -> None:
    damaged = mutants(model, random.Random(2), 2100, hot=(header_of(model),))
    assert assert_survives(open_weights, tmp_path / "damaged.gguf", damaged) > 700


def test_damage_needs_little_memory(model: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        damaged = mutants(model, random.Random(3), 70, hot=(header_of(model),))
        assert_survives(open_weights, tmp_path / "m.gguf", damaged)
    finally:
        tracemalloc.stop()


def with_numbers_replaced(data: bytes, rng: random.Random, n: int) -> Iterator[bytes]:
    """An edge value over each count, length, size, type and offset of the header in turn."""
    places = [at for at in header_of(data) if data[at + 4 : at + 8] == bytes(4)]
    for _ in range(n):
        at = rng.choice(places)
        form = rng.choice(("<I", "<Q"))
        number = rng.choice(EDGE_NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1)
        yield data[:at] + struct.pack(form, number) + data[at + struct.calcsize(form) :]


def test_edge_values_in_every_field(model: bytes, tmp_path: Path) -> None:
    assert assert_survives(open_weights, tmp_path / "m.gguf", with_numbers_replaced(model, random.Random(4), 800)) > 400


def with_records_changed(rng: random.Random, n: int) -> Iterator[bytes]:
    """Files of sound encoding and unsound contents: tensors and metadata lost, doubled, exchanged, reshaped."""
    for i in range(n):
        version = "67"[i % 2]
        checkpoint = tiny(version, n_layer=1, n_embd=32, n_ffn=32, n_vocab=20)
        entries = metadata(checkpoint, version, "f32", 0)
        arrays = renamed(checkpoint, version, 0)
        blobs = [blob(name, array, stored_as(name, array, "q8_0")) for name, array in arrays.items()]
        a, b = rng.randrange(len(blobs)), rng.randrange(len(blobs))
        name, format, shape, raw = blobs[a]
        match i // 2 % 6:
            case 0:
                del blobs[a]
            case 1:
                blobs[a] = (blobs[b][0], *blobs[a][1:])
            case 2:
                blobs[a] = (name, *blobs[b][1:])
            case 3:
                shapes = [(*shape, 1), (1, *shape), shape[::-1], (len(raw),), (2, *shape[1:])]
                blobs[a] = (name, format, rng.choice(shapes)[:4], raw)
            case 4:
                entries[rng.choice(list(entries))] = rng.choice(ODD_VALUES)
            case 5:
                del entries[rng.choice(list(entries))]
        yield file_bytes(entries, blobs)


def test_sound_files_with_unsound_contents(tmp_path: Path) -> None:
    assert assert_survives(open_weights, tmp_path / "m.gguf", with_records_changed(random.Random(5), 360)) > 50
