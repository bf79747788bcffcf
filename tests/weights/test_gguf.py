"""GGUF files as llama.cpp writes them: read without copying, under our names."""
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.errors import ModelFileError
from rwkv_edge.quant.decode import decode_blocks
from rwkv_edge.quant.formats import FORMATS, UNSUPPORTED_GGML_TYPES
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.gguf import matches, read
from tests.checkpoints.canonical import canonical
from tests.checkpoints.gguf import U64, Blob, blob, byte_vocabulary, encoded, file_bytes, metadata, renamed, write_gguf
from tests.checkpoints.tiny import Checkpoint, tiny
from tests.weights.owner import assert_zero_copy

TYPES = ("f32", "bf16", "f16", "q8_0")


def small_model(**changes: Any) -> tuple[dict[str, Any], list[Blob]]:
    """Metadata and tensors of a version 7 file, for tests that break one thing.

    `changes` replace metadata or (None) drop it; __ stands for a dot.
    """
    checkpoint = tiny("7", n_layer=1)
    entries = metadata(checkpoint, "7", "f32", 0) | {key.replace("__", "."): value for key, value in changes.items()}
    blobs = [blob(name, array, "f32") for name, array in renamed(checkpoint, "7", 0).items()]
    return {key: value for key, value in entries.items() if value is not None}, blobs


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as raised:
        open_weights(path)
    return str(raised.value).removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# What a file becomes.


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("version", ["6", "7"])
def test_a_file_gives_the_canonical_tensors(version: str, type: str, path: Path) -> None:
    checkpoint = tiny(version)
    weights = open_weights(write_gguf(path, checkpoint, type))
    expected = without_unused(canonical(checkpoint))
    assert weights.tensors.keys() == expected.keys()
    for name, array in expected.items():
        tensor = weights.tensors[name]
        assert tensor.shape == array.shape, name
        np.testing.assert_array_equal(tensor.decode(), rounded(array, tensor.format), name)
    assert weights.tensors["blocks.1.att.key.weight"].format == type


def without_unused(tensors: Checkpoint) -> Checkpoint:
    """Without what the converter does not keep."""
    return {name: array for name, array in tensors.items() if not re.fullmatch(r"blocks\.0\.att\.v[012]", name)}


def rounded(array: np.ndarray, format: str) -> np.ndarray:
    if format == "q8_0":
        return decode_blocks(np.frombuffer(encoded(array, format), np.uint8).reshape(*array.shape[:-1], -1), format)
    return array.astype(np.float16).astype(np.float32) if format == "f16" else array


@pytest.mark.parametrize("version", ["6", "7"])
def test_nothing_is_copied(version: str, path: Path) -> None:
    write_gguf(path, tiny(version), "q8_0")
    assert_zero_copy(read(path))
    assert_zero_copy(open_weights(path))


def test_hints_come_from_the_metadata(path: Path) -> None:
    hints = open_weights(write_gguf(path, tiny("6", n_vocab=300), rescale_every=2)).hints
    assert (hints.head_size, hints.layer_norm_eps, hints.rescale_every_n_layers) == (16, 1e-5, 2)
    assert hints.vocabulary == byte_vocabulary(300)


def test_rescaled_matrices_stay_as_stored(path: Path) -> None:
    checkpoint = tiny("6", n_layer=5)
    tensors = open_weights(write_gguf(path, checkpoint, rescale_every=2)).tensors
    for i in range(5):
        for name in ("att.output", "ffn.value"):
            full = f"blocks.{i}.{name}.weight"
            np.testing.assert_array_equal(tensors[full].decode() * 2 ** (i // 2), checkpoint[full])


@pytest.mark.parametrize("version", ["6", "7"])
def test_a_model_with_one_head_keeps_its_head_axis(version: str, path: Path) -> None:
    """llama.cpp's own tools drop trailing sizes of 1 when they write a tensor again."""
    name = {"6": "time_faaaa", "7": "r_k"}[version]
    checkpoint = tiny(version, head_size=64)
    entries = metadata(checkpoint, version, "f32", 0)
    arrays = renamed(checkpoint, version, 0)
    blobs = [blob(name, array.squeeze() if "first" in name else array, "f32") for name, array in arrays.items()]
    path.write_bytes(file_bytes(entries, blobs))
    assert open_weights(path).tensors[f"blocks.1.att.{name}"].shape == (1, 64)


def test_lerps_of_files_from_before_the_fusion_are_known(path: Path) -> None:
    checkpoint = tiny("6")
    arrays = renamed(checkpoint, "6", 0)
    for i in range(3):
        fused = arrays.pop(f"blk.{i}.time_mix_lerp_fused.weight")
        arrays |= {f"blk.{i}.time_mix_lerp_{x}.weight": fused[j, 0, 0] for j, x in enumerate("wkvrg")}
    path.write_bytes(file_bytes(metadata(checkpoint, "6", "f32", 0), [blob(n, a, "f32") for n, a in arrays.items()]))
    tensors = open_weights(path).tensors
    assert tensors.keys() == checkpoint.keys()
    name = "blocks.2.att.time_maa_r"
    np.testing.assert_array_equal(tensors[name].decode(), checkpoint[name].ravel())


@pytest.mark.parametrize("format", [name for name, format in FORMATS.items() if format.block_size > 1])
def test_every_block_format_is_read_from_its_place(format: str, path: Path) -> None:
    raw = np.random.default_rng(3).integers(0, 256, (4, 3, FORMATS[format].row_bytes(512)), np.uint8)
    path.write_bytes(file_bytes({}, [("first", "f32", (2,), bytes(8)), ("w", format, (4, 3, 512), raw.tobytes())]))
    tensor = read(path).tensors["w"]
    assert (tensor.format, tensor.shape) == (format, (4, 3, 512))
    np.testing.assert_array_equal(tensor.data, raw)


# What the reader understands.


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_versions_and_alignments(version: int, alignment: int, path: Path) -> None:
    entries, blobs = small_model(general__alignment=alignment)
    path.write_bytes(file_bytes(entries, blobs, version, alignment))
    found = open_weights(path).tensors["ln_out.bias"].decode()
    np.testing.assert_array_equal(found, tiny("7", n_layer=1)["ln_out.bias"])


def test_metadata_of_every_type_becomes_plain_values(path: Path) -> None:
    numbers = [
        (0, "B", 255), (1, "b", -128), (2, "H", 65535), (3, "h", -32768), (4, "I", 4294967295), (5, "i", -2147483648),
        (6, "f", 0.5), (7, "?", True), (10, "Q", 18446744073709551615), (11, "q", -9223372036854775808), (12, "d", 0.1),
    ]  # fmt: skip
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 2 * len(numbers) + 4)
    for kind, code, value in numbers:
        header += struct.pack("<Q", 1) + code.encode() + struct.pack(f"<I{code}", kind, value)
        header += struct.pack("<Q", 2) + code.encode() * 2 + struct.pack(f"<IIQ2{code}", 9, kind, 2, value, value)
    for key, rest in {
        "text": struct.pack("<IQ", 8, 3) + "é".encode() + b"\xff",
        "texts": struct.pack("<IIQQ", 9, 8, 2, 0) + struct.pack("<Q", 1) + b"x",
        "none": struct.pack("<IIQ", 9, 8, 0),
        "nested": struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQ2B", 0, 2, 1, 2) + struct.pack("<IQ", 4, 0),
    }.items():
        header += struct.pack("<Q", len(key)) + key.encode() + rest
    path.write_bytes(header)
    found = read(path).metadata
    expected = {code: value for _, code, value in numbers} | {code * 2: [value, value] for _, code, value in numbers}
    assert found == expected | {"text": "é\\xff", "texts": ["", "x"], "none": [], "nested": [[1, 2], []]}
    assert type(found["?"]) is bool
    assert type(found["Q"]) is int


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("version", ["6", "7"])
def test_the_gguf_package_reads_our_test_files_alike(version: str, type: str, path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    write_gguf(path, tiny(version), type, rescale_every=2 if version == "6" else 0)
    theirs, ours = gguf.GGUFReader(path), read(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert fields == ours.metadata
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.format, mine.shape) == (tensor.tensor_type.name.lower(), tuple(tensor.shape[::-1].tolist()))
        assert mine.data.tobytes() == tensor.data.tobytes()


def test_a_file_is_recognised_by_its_first_bytes(path: Path) -> None:
    assert matches(b"GGUF\3\0\0\0", path)
    assert not matches(b"fmgg\3\0\0\0", path)
    assert not matches(b"GG", path)


# Split files.


def write_split(folder: Path, count: int = 3, changes: Mapping[str, Any] | None = None) -> list[Path]:
    checkpoint = tiny("7", n_layer=2)
    blobs = [blob(name, array, "f32") for name, array in renamed(checkpoint, "7", 0).items()]
    paths = [folder / f"m-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        entries = metadata(checkpoint, "7", "f32", 0) if i == 0 else {}
        entries |= {"split.no": i, "split.count": count, "split.tensors.count": len(blobs)}
        path.write_bytes(file_bytes(entries | dict(changes or {}), blobs[i::count]))
    return paths


def test_a_split_model_opens_by_any_of_its_parts(tmp_path: Path) -> None:
    expected = without_unused(canonical(tiny("7", n_layer=2)))
    for path in write_split(tmp_path):
        weights = open_weights(path)
        assert weights.path == path
        assert weights.tensors.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(weights.tensors[name].decode(), array)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelFileError, match=r"part 2 of 3, m-00002-of-00003.gguf, is not beside it"):
        open_weights(paths[0])


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(ModelFileError, match="is not part 3 of 3 of a split model"):
        open_weights(paths[0])
    write_split(tmp_path, changes={"split.tensors.count": "two\nlines"})
    with pytest.raises(ModelFileError, match=r"the 3 parts hold 62 tensors, expected 'two\\nlines'"):
        open_weights(paths[0])
    single = paths[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match="expected a name that ends in -00001-of-00003"):
        open_weights(single)


# What it refuses, and how.


def test_other_versions_and_byte_orders_are_named(path: Path) -> None:
    entries, blobs = small_model()
    assert refusal(path, file_bytes(entries, blobs, version=1)) == "has GGUF version 1, expected 2 or 3"
    assert refusal(path, file_bytes(entries, blobs, version=4)) == "has GGUF version 4, expected 2 or 3"
    big_endian = file_bytes(entries, blobs, version=3 << 24)
    assert refusal(path, big_endian) == "is a big-endian GGUF file, expected a little-endian one"


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("rwkv6qwen2", "a Qwen2 whose attention was replaced by RWKV-6"),
        ("arwkv7", "a Qwen2 whose attention was replaced by RWKV-7"),
        ("llama", "a model of architecture 'llama'"),
        (7, "no model"),
    ],
)
def test_other_architectures_are_named(arch: Any, words: str, path: Path) -> None:
    entries, blobs = small_model(general__architecture=arch)
    message = refusal(path, file_bytes(entries, blobs))
    assert message == f"holds {words}; this engine reads rwkv4, rwkv5, rwkv6, rwkv7 from GGUF files"


def test_types_without_a_decoder_are_named(path: Path) -> None:
    entries, blobs = small_model()
    data = file_bytes(entries, blobs)
    at = data.index(b"blk.0.time_mix_key.weight") + len("blk.0.time_mix_key.weight") + 4 + 2 * 8
    for ggml_type, name in [*UNSUPPORTED_GGML_TYPES.items(), (99, "ggml type 99")]:
        message = refusal(path, data[:at] + struct.pack("<I", ggml_type) + data[at + 4 :])
        assert message == f"tensor 'blk.0.time_mix_key.weight' is stored as {name}, which this engine does not read"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general__alignment": 24}, "general.alignment is '24', expected a power of two"),
        ({"general__alignment": "32"}, "general.alignment is '32', expected a power of two"),
        ({"rwkv7__wkv.head_size": None}, "metadata rwkv7.wkv.head_size is missing, expected a number from 1 to 65536"),
        ({"rwkv7__wkv.head_size": 0}, "metadata rwkv7.wkv.head_size is '0'"),
        (
            {"rwkv7__wkv.head_size": 60},
            "tensor 'blk.0.time_mix_r_k.weight' is f32 [64], expected plain floats in heads of",
        ),
        ({"rwkv7__block_count": 2}, "the metadata says 2 layers, but that is not what the file holds"),
        ({"rwkv7__attention.layer_norm_epsilon": 2.0}, "metadata rwkv7.attention.layer_norm_epsilon is '2.0'"),
        ({"rwkv7__attention.layer_norm_epsilon": "x"}, "metadata rwkv7.attention.layer_norm_epsilon is 'x'"),
        ({"tokenizer__ggml.tokens": 5}, "metadata tokenizer.ggml.tokens is no list of texts"),
        ({"general__type": "adapter"}, "is of type 'adapter', expected a model"),
    ],
)
def test_impossible_metadata_is_named(changes: dict[str, Any], words: str, path: Path) -> None:
    entries, blobs = small_model(**changes)
    assert refusal(path, file_bytes(entries, blobs)).startswith(words)


def test_tensors_in_impossible_places_are_named(path: Path) -> None:
    blobs = [("a", "f32", (16,), bytes(64)), ("b", "f32", (16,), bytes(64)), ("c", "f32", (16,), bytes(64))]
    data = file_bytes({}, blobs)
    place = data.index(b"b\1\0\0\0") + 1 + 4 + 8 + 4
    assert struct.unpack_from("<Q", data, place) == (64,)

    def moved(offset: int) -> str:
        return refusal(path, data[:place] + struct.pack("<Q", offset) + data[place + 8 :])

    assert moved(32) == "tensor 'b' overlaps tensor 'a'"
    assert moved(96) == "tensor 'c' overlaps tensor 'b'"
    assert moved(63) == "tensor 'b' lies at offset 63, expected a multiple of 32"
    assert moved(192) == "tensor 'b' ends 64 bytes after the end of the file"
    assert moved((1 << 64) - 32).startswith("tensor 'b' ends")
    assert refusal(path, data.replace(b"b\1\0\0\0", b"a\1\0\0\0")) == "tensor 'a' is there twice"


def test_a_file_that_is_a_byte_short_is_refused(path: Path) -> None:
    data = file_bytes({}, [("a", "q8_0", (2, 32), bytes(68)), ("b", "f32", (8,), bytes(32))])
    path.write_bytes(data)
    assert read(path).tensors["b"].data.nbytes == 32  # up to the last byte: no padding follows it
    assert refusal(path, data[:-1]) == "tensor 'b' ends 1 bytes after the end of the file"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((), "tensor 'w' has 0 axes, expected 1 to 4"),
        ((1, 1, 1, 1, 32), "tensor 'w' has 5 axes, expected 1 to 4"),
        ((0, 32), "tensor 'w' has shape [0, 32], expected no empty axis"),
        ((2, 33), "tensor 'w' has rows of 33 weights, expected a multiple of 32 for q8_0"),
        ((1 << 60, 1 << 60), "tensor 'w' ends 1412"),
    ],
)
def test_impossible_shapes_are_named(shape: tuple[int, ...], words: str, path: Path) -> None:
    assert refusal(path, file_bytes({}, [("w", "q8_0", shape, bytes(64))])).startswith(words)


@pytest.mark.parametrize("n", [1 << 16 | 1, 1 << 32, (1 << 64) - 1])
def test_absurd_counts_are_refused_before_they_cost_anything(n: int, path: Path) -> None:
    head = b"GGUF" + struct.pack("<I", 3)
    assert refusal(path, head + struct.pack("<QQ", n, 0)).startswith(f"announces {n} tensors")
    assert refusal(path, head + struct.pack("<QQ", 0, n)).startswith(f"announces {n} metadata entries")
    entry = head + struct.pack("<QQ", 0, 1)
    assert refusal(path, entry + struct.pack("<Q", n) + b"k" * 99).startswith(
        "the key of metadata entry 0 is a name of"
    )
    key = entry + struct.pack("<Q", 1) + b"k"
    assert refusal(path, key + struct.pack("<IQ", 8, n) + b"x" * 99).startswith("ends inside metadata 'k'")
    for item in (0, 4, 7, 8, 9, 12):
        array = key + struct.pack("<IIQ", 9, item, n) + b"x" * 99
        assert refusal(path, array).startswith(f"announces {n} items of metadata 'k'")


def test_arrays_nested_without_end_are_refused(path: Path) -> None:
    data = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 9)
    data += struct.pack("<IQ", 9, 1) * 100_000
    assert refusal(path, data) == "metadata 'k' has arrays nested deeper than 4"


def test_a_key_that_is_there_twice_is_refused(path: Path) -> None:
    entry = struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 1)
    assert refusal(path, b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + entry + entry) == "has the metadata key 'k' twice"


def test_tensors_no_such_model_has_are_refused(path: Path) -> None:
    entries, blobs = small_model()
    extra = ("blk.0.attn_q.weight", "f32", (2, 2), bytes(16))
    message = refusal(path, file_bytes(entries, [*blobs, extra]))
    assert message == "tensor 'blk.0.attn_q.weight' is none that an rwkv7 model has"


def test_fused_tensors_with_the_wrong_number_of_parts_are_refused(path: Path) -> None:
    entries, blobs = small_model()
    name = "blk.0.time_mix_lerp_fused.weight"
    blobs = [(n, f, (5, 1, 1, 64), raw[: 5 * 256]) if n == name else (n, f, shape, raw) for n, f, shape, raw in blobs]
    assert refusal(path, file_bytes(entries, blobs)) == f"tensor '{name}' is f32 [5, 1, 1, 64], expected 6 vectors"


def test_counts_of_64_bits_are_metadata_like_any_other(path: Path) -> None:
    entries, blobs = small_model(split__count=U64(1))
    path.write_bytes(file_bytes(entries, blobs))
    assert open_weights(path).metadata["split.count"] == 1
