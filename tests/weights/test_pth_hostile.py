"""PyTorch checkpoints from an enemy: nothing runs, nothing grows, one clear error."""
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rwkv_edge.errors import ModelFileError
from rwkv_edge.weights import open_weights, read_raw
from rwkv_edge.weights.torch_pickle import MAX_INSTRUCTIONS, MAX_MARKS
from tests.checkpoints.pth import (
    Window,
    ZipEntry,
    call,
    checkpoint_bytes,
    dictionary,
    global_name,
    integer,
    pickled,
    program,
    tensor,
    text,
    tuple_of,
    write_pth,
    zip_bytes,
)
from tests.checkpoints.tiny import tiny
from tests.weights.mutation import assert_survives, must_refuse, mutants, truncations

X = Window("0", "f32", 4, 0, (2, 2), (2, 1))
STORAGE = {"0": b"\0" * 16}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def _saved(path: Path, pickle: bytes) -> None:
    path.write_bytes(checkpoint_bytes(pickle, STORAGE))


def small_checkpoint(path: Path) -> bytes:
    """A real model, but with one layer and few channels, so that most of its bytes are structure."""
    return write_pth(path, tiny("7", n_layer=1, n_embd=16, n_ffn=16, n_vocab=8)).read_bytes()


def test_every_truncation_is_refused(path: Path) -> None:
    damaged = list(truncations(small_checkpoint(path), random.Random(1), 300))
    assert assert_survives(open_weights, path, iter(damaged)) == len(damaged)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_mutants_open_or_get_one_clear_error(path: Path, seed: int) -> None:
    data = small_checkpoint(path)
    start = data.index(b"\x80\x02}")
    hot = (range(start, data.index(b"PK\3\4", start)), range(data.index(b"PK\1\2"), len(data)))
    refused = assert_survives(open_weights, path, mutants(data, random.Random(seed), 700, hot))
    assert refused > 350


def test_mutants_allocate_little(path: Path) -> None:
    data = checkpoint_bytes(program({"x": X}), STORAGE)
    tracemalloc.start()
    try:
        assert_survives(read_raw, path, mutants(data, random.Random(5), 1000))
    finally:
        tracemalloc.stop()


class Attack:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "builtins.exec", "builtins.getattr", "os.mkdir"])
def test_code_in_a_pickle_never_runs(path: Path, tmp_path: Path, function: str, protocol: int) -> None:
    sentinel = tmp_path / "ran"
    script = f"__import__('os').mkdir({str(sentinel)!r})"
    attack = {
        "os.system": Attack(os.system, f"mkdir {sentinel}"),
        "builtins.eval": Attack(eval, script),
        "builtins.exec": Attack(exec, script),
        "builtins.getattr": Attack(getattr, "x", "upper"),
        "os.mkdir": Attack(os.mkdir, str(sentinel)),
    }[function]
    _saved(path, pickle.dumps({"x": attack}, protocol))
    assert "its pickle" in must_refuse(read_raw, path)
    assert not sentinel.exists()


@pytest.mark.parametrize("where", ["bare pickle", "legacy file"])
def test_files_that_are_pickles_themselves_are_not_loaded(path: Path, tmp_path: Path, where: str) -> None:
    sentinel = tmp_path / "ran"
    attack = pickle.dumps(Attack(os.mkdir, str(sentinel)), 2)
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." if where == "legacy file" else b""
    path.write_bytes(magic + attack)
    must_refuse(read_raw, path)
    assert not sentinel.exists()


NAMES = {
    "torch.load": global_name("torch", "load"),
    "dotted": global_name("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "dotted module": global_name("torch._utils._rebuild_tensor_v2", "__class__"),
    "ours": global_name("rwkv_edge.weights.pth", "map_file"),
    "empty": global_name("", ""),
    "from the stack": text("os") + text("system") + b"\x93",
    "not texts": integer(1) + integer(2) + b"\x93",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_outside_the_table_are_refused(path: Path, name: str) -> None:
    _saved(path, pickled(NAMES[name]))
    assert "which no checkpoint of tensors needs" in must_refuse(read_raw, path)


REBUILD = global_name("torch._utils", "_rebuild_tensor_v2")
REFERENCE = tuple_of(text("storage"), global_name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4)) + b"Q"
WEIRD = {
    "no arguments": call(REBUILD),
    "arguments that are no tuple": REBUILD + b"]" + b"R",
    "storage that is a text": call(REBUILD, text("s"), integer(0), tuple_of(), tuple_of()),
    "offset that is a text": call(REBUILD, REFERENCE, text("0"), tuple_of(), tuple_of()),
    "offset that is a bool": call(REBUILD, REFERENCE, b"\x88", tuple_of(), tuple_of()),
    "shape that is a list": call(REBUILD, REFERENCE, integer(0), b"]", tuple_of()),
    "shape of texts": call(REBUILD, REFERENCE, integer(0), tuple_of(text("2")), tuple_of(integer(1))),
    "shape of floats": call(REBUILD, REFERENCE, integer(0), tuple_of(b"G" + bytes(8)), tuple_of(integer(1))),
    "strides of tuples": call(REBUILD, REFERENCE, integer(0), tuple_of(integer(2)), tuple_of(tuple_of())),
    "storage class as function": call(global_name("torch", "FloatStorage"), integer(1 << 30)),
    "dtype as function": call(global_name("torch", "float32"), integer(1 << 30)),
    "a tensor as function": call(tensor(X), integer(1)),
    "a text as function": call(text("os.system"), text("ls")),
    "parameter of nothing": call(global_name("torch._utils", "_rebuild_parameter"), b"N"),
    "ordered dict of a list": call(global_name("collections", "OrderedDict"), b"]"),
    "v3 without dtype": call(global_name("torch._utils", "_rebuild_tensor_v3"), REFERENCE, integer(0), b")", b")"),
    "reference that is a text": text("storage") + b"Q",
    "reference of three": tuple_of(text("storage"), text("0"), integer(1)) + b"Q",
    "reference to a module": tuple_of(text("module"), text("a"), text("b"), text("c"), integer(1)) + b"Q",
    "reference to a function": tuple_of(text("storage"), REBUILD, text("0"), text("cpu"), integer(1)) + b"Q",
    "reference without size": tuple_of(
        text("storage"), global_name("torch", "FloatStorage"), text("0"), text("cpu"), b"N"
    ) + b"Q",
    "attributes of a tensor": tensor(X) + b"}b",
    "attributes of nothing": b"}b",
    "text reference": b"Pos.system\n",
    "new object": global_name("collections", "OrderedDict") + b")\x81",
    "instance": b"(ios\nsystem\n",
    "extension registry": b"\x82\x01",
    "odd number of items": b"}(" + text("a") + b"u",
    "items of a list": b"](" + text("a") + b"Nu",
    "key that is a tuple": dictionary([(tuple_of(), b"N")]),
    "the same key twice": dictionary([(text("a"), b"N"), (text("a"), b"N")]),
    "tuple from an empty stack": b"\x87",
    "bracket that was not opened": b"t",
    "value from below a bracket": b"N(\x85",
    "memo that was not stored": b"h\x05",
    "result that is not there": b"",
    "text that is not UTF-8": b"X\x01\0\0\0\xff",
    "future protocol": b"\x80\x09",
}  # fmt: skip


@pytest.mark.parametrize("case", WEIRD)
def test_malformed_pickles_get_one_clear_error(path: Path, case: str) -> None:
    _saved(path, pickled(dictionary([(text("x"), WEIRD[case])])))
    must_refuse(read_raw, path)
    _saved(path, pickled(WEIRD[case]))
    must_refuse(read_raw, path)


BOMBS = {
    "text of 4 GB": b"X" + b"\xff" * 4,
    "text of 2^63 bytes": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "bytes of 4 GB": b"B" + b"\xff" * 4,
    "frame of 2^63 bytes": b"\x95" + b"\xff" * 7 + b"\x7f" + b"N.",
    "integer of 2 GB": b"\x8b" + b"\xff\xff\xff\x7f",
    "integer of 255 bytes": b"\x8a\xff" + b"\x7f" * 255,
    "memo index 2^32": b"Nr\xff\xff\xff\xff" + b".",
    "many brackets": b"(" * 1_000_000,
    "many lists": b"]" * 1_000_000,
    "nested lists": b"]" * 400_000 + b"a" * 399_999 + b".",
    "nested tuples": b")" + b"\x85" * (MAX_INSTRUCTIONS - 10) + b".",
    "tuple that doubles": b")q\0" + b"h\0h\0\x86q\0" * 1000 + b"N" + b"\x86" + b".",
    "key that doubles": b"})q\0" + b"h\0h\0\x86q\0" * 1000 + b"Ns.",
    "endless line": b"c" + b"o" * 1_000_000,
    "nothing but memo": b"N" + b"q\0" * 1_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_cost_no_more_than_the_bytes_read(path: Path, bomb: str) -> None:
    _saved(path, b"\x80\x02" + BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            read_raw(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_brackets_are_counted(path: Path) -> None:
    _saved(path, pickled(b"(" * (MAX_MARKS + 1)))
    assert "nested deeper" in must_refuse(read_raw, path)


def test_a_pickle_larger_than_any_model_needs_is_not_read(path: Path) -> None:
    _saved(path, b"N" * (17 << 20))
    assert "expected at most" in must_refuse(read_raw, path)


def test_a_zip_bomb_is_not_unpacked(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"N" * (64 << 20))
    assert "compressed" in must_refuse(read_raw, path)


def test_a_directory_that_claims_millions_of_entries_is_refused_at_once(path: Path) -> None:
    data = bytearray(zip_bytes([ZipEntry("m/data.pkl", b"N.")], zip64=True))
    record = data.index(b"PK\6\6")
    data[record + 24 : record + 40] = struct.pack("<2Q", 1 << 40, 1 << 40)
    path.write_bytes(data)
    assert "zip entries" in must_refuse(read_raw, path)


def test_a_directory_that_claims_no_entries_has_none(path: Path) -> None:
    data = bytearray(zip_bytes([ZipEntry("m/data.pkl", b"N.")]))
    data[-14:-10] = bytes(4)
    path.write_bytes(data)
    assert "with 0 data.pkl" in must_refuse(read_raw, path)


def test_names_in_error_messages_are_one_bounded_line(path: Path) -> None:
    name = "evil\n\x1b[31m" + "x" * 5000
    _saved(path, program({name: Window("9", "f32", 4, 0, (2,), (1,))}))
    assert must_refuse(read_raw, path).isprintable()
