"""PyTorch checkpoints: every way tensors lie in them, and one sentence for those that are not read."""
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.weights import open_weights, pth, read_raw
from tests.checkpoints.pth import (
    EMPTY_ORDERED_DICT,
    Window,
    ZipEntry,
    call,
    checkpoint_bytes,
    dictionary,
    global_name,
    integer,
    pickled,
    program,
    stored,
    tensor,
    text,
    tuple_of,
    write_pth,
    zip_bytes,
)
from tests.checkpoints.tiny import VERSIONS, tiny
from tests.weights.mutation import must_refuse
from tests.weights.owner import assert_zero_copy

NUMBERS = np.arange(24, dtype=np.float32)
STORAGE = {"0": stored(NUMBERS, "f32")}
WHOLE = Window("0", "f32", 24, 0, (4, 6), (6, 1))


def saved(path: Path, pickle: bytes, storages: dict[str, bytes] = STORAGE) -> Path:
    path.write_bytes(checkpoint_bytes(pickle, storages))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_every_dtype_comes_back_exactly(path: Path, dtype: str) -> None:
    checkpoint = tiny("7")
    raw = read_raw(write_pth(path, checkpoint, dtype))
    assert raw.source == "pth"
    assert list(raw.tensors) == list(checkpoint)
    for name, array in checkpoint.items():
        expected = array.astype(np.float16).astype(np.float32) if dtype == "f16" else array
        assert raw.tensors[name].format == dtype
        assert raw.tensors[name].shape == array.shape
        np.testing.assert_array_equal(raw.tensors[name].decode(), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_copied(path: Path, version: str) -> None:
    write_pth(path, tiny(version))
    assert_zero_copy(read_raw(path))
    assert_zero_copy(open_weights(path))


def test_strides_and_offsets_are_honoured_and_storages_shared(path: Path) -> None:
    windows = {
        "whole": WHOLE,
        "transposed": Window("0", "f32", 24, 0, (6, 4), (1, 6)),
        "column": Window("0", "f32", 24, 2, (4,), (6,)),
        "block": Window("0", "f32", 24, 7, (2, 3), (6, 1)),
        "scalar": Window("0", "f32", 24, 23, (), ()),
    }
    tensors = read_raw(saved(path, program(windows))).tensors
    square = NUMBERS.reshape(4, 6)
    expected = {
        "whole": square, "transposed": square.T, "column": square[:, 2], "block": square[1:3, 1:4],
        "scalar": square[3, 5],
    }  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name].decode(), array)
    assert np.shares_memory(tensors["whole"].data, tensors["block"].data)


def test_an_ordered_dict_with_attributes_reads_like_a_dict(path: Path) -> None:
    attributes = dictionary([(text("_metadata"), EMPTY_ORDERED_DICT)])
    body = dictionary([(text("x"), tensor(WHOLE))], EMPTY_ORDERED_DICT) + attributes + b"b"
    assert list(read_raw(saved(path, pickled(body))).tensors) == ["x"]


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_one_level_of_training_framework_is_unwrapped(path: Path, key: str) -> None:
    model = dictionary([(text("x"), tensor(WHOLE))])
    raw = read_raw(saved(path, pickled(dictionary([(text("epoch"), integer(3)), (text(key), model)]))))
    assert list(raw.tensors) == ["x"]


def test_parameters_and_untyped_storages_are_tensors(path: Path) -> None:
    parameter = call(global_name("torch._utils", "_rebuild_parameter"), tensor(WHOLE), b"\x88", EMPTY_ORDERED_DICT)
    untyped = tuple_of(
        text("storage"), global_name("torch.storage", "UntypedStorage"), text("0"), text("cpu"), integer(96)
    )
    version_3 = call(
        global_name("torch._utils", "_rebuild_tensor_v3"), untyped + b"Q", integer(4), tuple_of(integer(2)),
        tuple_of(integer(1)), b"\x89", EMPTY_ORDERED_DICT, global_name("torch", "float32"),
    )  # fmt: skip
    tensors = read_raw(saved(path, pickled(dictionary([(text("p"), parameter), (text("u"), version_3)])))).tensors
    np.testing.assert_array_equal(tensors["p"].decode(), NUMBERS.reshape(4, 6))
    np.testing.assert_array_equal(tensors["u"].decode(), NUMBERS[4:6])


def test_numbers_and_texts_beside_tensors_are_metadata(path: Path) -> None:
    items = [(text("x"), tensor(WHOLE)), (text("note"), text("hello")), (text("step"), integer(1 << 40))]
    raw = read_raw(saved(path, pickled(dictionary(items))))
    assert raw.metadata == {"note": "hello", "step": 1 << 40}


def test_newer_pickle_protocols_and_the_memo_are_read(path: Path) -> None:
    """Protocol 4: frame, short texts, names from the stack; x and y are one memoized tensor."""
    name = b"\x8c\x05torch\x8c\x0cFloatStorage\x93"
    reference = tuple_of(b"\x8c\x07storage", name, b"\x8c\x010", b"\x8c\x03cpu", integer(24)) + b"Q"
    x = call(global_name("torch._utils", "_rebuild_tensor_v2"), reference, integer(0), b"K\x18\x85", b"K\x01\x85")
    body = b"}\x94(\x8c\x01x" + x + b"\x94" + b"\x8c\x01yh\x01u."
    tensors = read_raw(saved(path, b"\x80\x04\x95" + len(body).to_bytes(8, "little") + body)).tensors
    np.testing.assert_array_equal(tensors["y"].decode(), NUMBERS)


def test_zip64_archives_are_read(path: Path) -> None:
    entries = [ZipEntry("m/data.pkl", program({"x": WHOLE})), ZipEntry("m/data/0", STORAGE["0"])]
    path.write_bytes(zip_bytes(entries, zip64=True))
    np.testing.assert_array_equal(read_raw(path).tensors["x"].decode(), NUMBERS.reshape(4, 6))


def test_tensors_at_odd_addresses_decode_and_transpose(path: Path) -> None:
    entries = [ZipEntry("m/data.pkl", program({"x": WHOLE})), ZipEntry("m/data/0", STORAGE["0"])]
    data = bytearray(zip_bytes(entries))
    at = data.index(STORAGE["0"])
    # One byte moved from the padding to before the data: the extra field of the local header gets shorter by one.
    header = data.rindex(b"PK\3\4", 0, at)
    extra = int.from_bytes(data[header + 28 : header + 30], "little")
    data[header + 28 : header + 30] = (extra - 1).to_bytes(2, "little")
    data[at - 1 : at - 1 + len(STORAGE["0"])] = STORAGE["0"]
    path.write_bytes(data)
    x = read_raw(path).tensors["x"]
    assert not x.data.flags.aligned
    np.testing.assert_array_equal(x.decode(), NUMBERS.reshape(4, 6))
    np.testing.assert_array_equal(x.transpose().reshape(24).decode(), NUMBERS.reshape(4, 6).T.ravel())


def test_files_from_before_pytorch_1_6_are_told_how_to_convert(path: Path) -> None:
    path.write_bytes(pth.LEGACY_PICKLE_MAGIC + b"rest of it")
    assert "torch.save(torch.load(" in must_refuse(read_raw, path)
    path.write_bytes(b"0" * pth.TAR_MAGIC_AT + b"ustar" + b"0" * 300)
    assert "before version 1.6" in must_refuse(read_raw, path)


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        (Window("0", "DoubleStorage", 12, 0, (12,), (1,)), "dtype float64"),
        (Window("0", "LongStorage", 12, 0, (12,), (1,)), "dtype int64"),
        (Window("0", "f32", 24, 0, (5, 6), (6, 1)), "outside its storage"),
        (Window("0", "f32", 24, 1, (24,), (1,)), "outside its storage"),
        (Window("0", "f32", 24, -1, (2,), (1,)), "outside its storage"),
        (Window("0", "f32", 24, 0, (2, 2), (-1, 1)), "strides"),
        (Window("0", "f32", 24, 0, (2, 2), (1,)), "strides"),
        (Window("0", "f32", 25, 0, (4,), (1,)), "the file holds 96"),
        (Window("0", "f32", -1, 0, (4,), (1,)), "storage"),
        (Window("1", "f32", 24, 0, (4,), (1,)), "are missing"),
        (Window("0", "f32", 24, 0, (1 << 20, 1 << 20), (0, 0)), "repeats its numbers"),
        (Window("0", "f32", 24, 0, (3, 3), (1, 1)), "repeats its numbers"),
        (Window("0", "f32", 24, 0, (1 << 40, 1 << 40, 0), (0, 0, 0)), "impossible shape"),
        (Window("0", "f32", 24, 0, (-1,), (1,)), "not a list of sizes"),
        (Window("0", "f32", 24, 0, (1,) * 9, (1,) * 9), "9 axes"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_named(path: Path, window: Window, problem: str) -> None:
    message = must_refuse(read_raw, saved(path, program({"blocks.0.x": window})))
    assert "'blocks.0.x'" in message
    assert problem in message


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([ZipEntry("word/document.xml", b"<x/>")], "a PyTorch checkpoint has 1"),
        ([ZipEntry("a/data.pkl", b"N."), ZipEntry("b/data.pkl", b"N.")], "with 2 data.pkl"),
        ([ZipEntry("m/data.pkl", program({"x": WHOLE})), ZipEntry("m/byteorder", b"big")], "byteorder"),
        ([ZipEntry("m/data.pkl", b"\x03\0", method=8)], "compressed (zip method 8)"),
        ([ZipEntry("m/data.pkl", b"N.", flags=1)], "encrypted"),
        ([ZipEntry("m/data.pkl", b"N."), ZipEntry("m/data.pkl", b"N.")], "two zip entries"),
        ([ZipEntry("m/data.pkl", b"N.", size=1 << 31)], "more than the file holds"),
        ([ZipEntry("m/data.pkl", b"N.", offset=1 << 31)], "outside the file"),
        ([ZipEntry("m/data.pkl", b"N."), ZipEntry("m/x", b"N.", offset=0)], "not where the directory says"),
        ([ZipEntry("m/data.pkl", b"N.", size=200), ZipEntry("m/x", b"N" * 400)], "overlaps"),
        ([ZipEntry("m/data.pkl", pickled(tensor(WHOLE)))], "holds a StoredTensor"),
        ([ZipEntry("m/data.pkl", pickled(b"}"))], "no dictionary of tensors"),
        ([ZipEntry("m/data.pkl", pickled(dictionary([(integer(3), tensor(WHOLE))])))], "named by the number 3"),
    ],
)
def test_an_archive_that_is_no_checkpoint_gets_one_sentence(path: Path, entries: list[ZipEntry], problem: str) -> None:
    path.write_bytes(zip_bytes(entries))
    assert problem in must_refuse(read_raw, path)


def test_a_file_converted_for_a_strategy_of_the_rwkv_package_is_refused(path: Path) -> None:
    items = [
        (text("emb.weight"), tensor(WHOLE)), (text("blocks.0.ln1.weight"), tensor(WHOLE)),
        (text("_strategy"), text("cuda fp16")), (text("_version"), integer(4)),
    ]  # fmt: skip
    saved(path, pickled(dictionary(items)))
    assert "open the original .pth" in must_refuse(open_weights, path)
