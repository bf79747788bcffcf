"""Damaged rwkv.cpp files open or are refused with one clear sentence: nothing else, quickly and in little memory."""
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkv_edge.weights import open_weights
from tests.checkpoints.gguf import Blob, encoded
from tests.checkpoints.rwkvcpp import converted, file_bytes, stored_as, write_rwkvcpp
from tests.checkpoints.tiny import tiny
from tests.weights.mutation import EDGE_NUMBERS, assert_survives, mutants, truncations

SMALL = {"n_layer": 1, "n_embd": 32, "n_ffn": 32, "n_vocab": 20}
HEADER = (20, 32, 1, 0)


@pytest.fixture(scope="module", params=["4", "5.2", "7"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bin") / "m.bin"
    return write_rwkvcpp(path, tiny(request.param, **SMALL), type="q8_0").read_bytes()


def records_of(data: bytes) -> list[range]:
    """The header and the places of all tensor records: each name and the numbers before it."""
    starts = [at for at in range(24, len(data)) if data.startswith((b"blocks.", b"emb.", b"head.", b"ln_out."), at)]
    return [range(24), *(range(at - 24, at + 24) for at in starts)]


def test_truncated_files(model: bytes, tmp_path: Path) -> None:
    assert assert_survives(open_weights, tmp_path / "cut.bin", truncations(model, random.Random(1), 150)) >= 150


def test_damage_of_every_kind(model: bytes, tmp_path: Path) -> None:
    damaged = mutants(model, random.Random(2), 700, hot=records_of(model))
    assert assert_survives(open_weights, tmp_path / "damaged.bin", damaged) > 300


def test_damage_needs_little_memory(model: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert_survives(open_weights, tmp_path / "m.bin", mutants(model, random.Random(3), 35, hot=records_of(model)))
    finally:
        tracemalloc.stop()


def with_numbers_replaced(data: bytes, rng: random.Random, n: int) -> Iterator[bytes]:
    """An edge value over each number of the header and of the records in turn."""
    places = [*range(0, 24, 4), *(at for record in records_of(data)[1:] for at in record[:24:4])]
    for _ in range(n):
        at = rng.choice(places)
        yield data[:at] + struct.pack("<I", rng.choice(EDGE_NUMBERS) & 0xFFFFFFFF) + data[at + 4 :]


def test_edge_values_in_every_field(model: bytes, tmp_path: Path) -> None:
    assert assert_survives(open_weights, tmp_path / "m.bin", with_numbers_replaced(model, random.Random(4), 300)) > 200


def changed(blobs: list[Blob], kind: int, rng: random.Random) -> list[Blob]:
    a, b = rng.randrange(len(blobs)), rng.randrange(len(blobs))
    name, format, shape, raw = blobs[a]
    shapes = [
        (*shape, 1),
        (1, *shape),
        shape[::-1],
        (len(raw) // 4,),
        (2, *shape[1:]),
        (6, 1, 32),
        (len(raw) // 34, 32),
    ]
    change: Blob = {
        0: (blobs[b][0], format, shape, raw),
        1: (name, *blobs[b][1:]),
        2: (name, format, rng.choice(shapes)[:3], raw),
        3: (name, rng.choice(("f32", "f16", "q8_0", "q4_0")), shape, raw),
        4: (name, "q8_0", (1, 32), bytes(34)),
    }[kind]
    return [*blobs[:a], change, *blobs[a + 1 :]]


def with_records_changed(rng: random.Random, n: int) -> Iterator[bytes]:
    """Files whose encoding is sound and whose contents are not."""
    models = []
    for version in ("4", "5.0", "5.2", "6", "7"):
        arrays = converted(tiny(version, **SMALL))
        formats = {name: stored_as(name, array, "q8_0") for name, array in arrays.items()}
        models.append([(n, formats[n], array.shape, encoded(array, formats[n])) for n, array in arrays.items()])
    for i in range(n):
        yield file_bytes(changed(models[i % len(models)], i // len(models) % 5, rng), HEADER)


def test_sound_files_with_unsound_contents(tmp_path: Path) -> None:
    assert assert_survives(open_weights, tmp_path / "m.bin", with_records_changed(random.Random(5), 750)) > 150
