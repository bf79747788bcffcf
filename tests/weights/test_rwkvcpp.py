"""rwkv.cpp files: read without copying, under our names, with the decays that the converter exponentiated."""
import mmap
import struct
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.errors import ModelFileError
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights import open_weights
from rwkv_edge.weights.rwkvcpp import UNSUPPORTED_TYPES, matches, read
from tests.checkpoints.canonical import canonical
from tests.checkpoints.gguf import Blob, encoded
from tests.checkpoints.rwkvcpp import TYPE_IDS, converted, file_bytes, stored_as, write_rwkvcpp
from tests.checkpoints.tiny import VERSIONS, Checkpoint, tiny
from tests.weights.owner import memory_owner

EXPONENTIATED = ("time_decay", "time_first")


def exponentiated(name: str, version: str) -> bool:
    """Whether the converter stored an exponential of this tensor: versions 4 and 5 only, 4's time_first as it is."""
    return name.endswith("time_decay" if version == "4" else EXPONENTIATED) and version[0] in "45"


def blobs_of(checkpoint: Checkpoint, type: str = "f32") -> list[Blob]:
    formats = {name: stored_as(name, array, type) for name, array in converted(checkpoint).items()}
    return [(n, formats[n], array.shape, encoded(array, formats[n])) for n, array in converted(checkpoint).items()]


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as raised:
        open_weights(path)
    return str(raised.value).removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


# What a file becomes.


@pytest.mark.parametrize("head_size", [16, 64])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_gives_the_canonical_tensors(version: str, head_size: int, path: Path) -> None:
    """Also with one head (64 channels), whose axis the converter squeezes away."""
    checkpoint = tiny(version, head_size=head_size)
    weights = open_weights(write_rwkvcpp(path, checkpoint))
    expected = canonical(checkpoint)
    assert weights.tensors.keys() == expected.keys()
    for name, array in expected.items():
        tensor = weights.tensors[name]
        assert tensor.shape == array.shape, name
        if not exponentiated(name, version):
            np.testing.assert_array_equal(tensor.decode(), array, name)


@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2"])
def test_decays_come_back_as_exactly_as_the_file_holds_them(version: str, path: Path) -> None:
    """The exponential of what we give is the number in the file, to float32's precision."""
    checkpoint = tiny(version)
    weights = open_weights(write_rwkvcpp(path, checkpoint))
    stored = converted(checkpoint)
    for name in [name for name in checkpoint if exponentiated(name, version)]:
        raw = weights.tensors[name].decode(np.float64)
        np.testing.assert_allclose(raw, canonical(checkpoint)[name], rtol=3e-5, err_msg=name)
        again = np.exp(raw) if name.endswith("time_first") else -np.exp(raw) if version == "4" else np.exp(-np.exp(raw))
        np.testing.assert_allclose(again.ravel(), stored[name].ravel(), rtol=3e-7, err_msg=name)


def test_decays_of_exactly_zero_and_one_become_infinite(path: Path) -> None:
    """A very large raw decay is stored as 0, a very small one as 1; their exponentials are 0 and 1 again."""
    checkpoint = tiny("5.2")
    checkpoint["blocks.0.att.time_decay"][0, :2] = [20.0, -40.0]
    raw = open_weights(write_rwkvcpp(path, checkpoint)).tensors["blocks.0.att.time_decay"].decode()
    assert raw[0, :2].tolist() == [np.inf, -np.inf]
    assert np.isfinite(raw.ravel()[2:]).all()


@pytest.mark.parametrize("type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("version", ["4", "5.2", "6", "7"])
def test_matrices_stay_as_they_are_stored(version: str, type: str, path: Path) -> None:
    checkpoint = tiny(version)
    weights = open_weights(write_rwkvcpp(path, checkpoint, type=type))
    for name, format, _, raw in blobs_of(checkpoint, type):
        if name in weights.tensors and not exponentiated(name, version):
            tensor = weights.tensors[name]
            assert (tensor.format, tensor.data.tobytes()) == (format, raw), name
    assert weights.tensors["blocks.1.ffn.value.weight"].format == type


def test_version_7s_head_bonus_may_be_quantized(path: Path) -> None:
    """It has two axes, so rwkv.cpp's quantizer takes it, where the heads are wide enough."""
    weights = open_weights(write_rwkvcpp(path, tiny("7", head_size=32), type="q8_0"))
    tensor = weights.tensors["blocks.1.att.r_k"]
    assert (tensor.format, tensor.shape) == ("q8_0", (2, 32))
    np.testing.assert_allclose(tensor.decode(), tiny("7", head_size=32)["blocks.1.att.r_k"], atol=2e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_but_the_decays_is_copied(version: str, path: Path) -> None:
    write_rwkvcpp(path, tiny(version), type="f16")
    for name, tensor in open_weights(path).tensors.items():
        if not exponentiated(name, version):
            assert isinstance(memory_owner(tensor.data), mmap.mmap), name
            assert not tensor.data.flags.writeable, name


def test_51_files_with_a_bonus_per_head_are_read_as_52(path: Path) -> None:
    """They name the bonus time_faaaa, which is used without exponential, one number a head."""
    checkpoint = {name.replace("time_first", "time_faaaa"): array for name, array in tiny("5.1").items()}
    tensors = open_weights(write_rwkvcpp(path, checkpoint)).tensors
    assert tensors["blocks.0.att.time_faaaa"].shape == tensors["blocks.0.att.time_decay"].shape == (4, 16)
    expected = np.repeat(checkpoint["blocks.0.att.time_faaaa"], 16).reshape(4, 16)
    np.testing.assert_array_equal(tensors["blocks.0.att.time_faaaa"].decode(), expected)


def test_the_flat_decay_of_older_version_6_files_is_known(path: Path) -> None:
    checkpoint = tiny("6")
    blobs = [(n, f, (64,) if n.endswith("time_decay") else s, raw) for n, f, s, raw in blobs_of(checkpoint)]
    path.write_bytes(file_bytes(blobs, (97, 64, 3, 0)))
    np.testing.assert_array_equal(
        open_weights(path).tensors["blocks.0.att.time_decay"].decode(), checkpoint["blocks.0.att.time_decay"].ravel()
    )


@pytest.mark.parametrize("format", TYPE_IDS)
def test_every_type_is_read_from_its_place(format: str, path: Path) -> None:
    raw = np.random.default_rng(2).integers(0, 256, 6 * FORMATS[format].row_bytes(256), np.uint8).tobytes()
    path.write_bytes(file_bytes([("odd", "f32", (1,), bytes(4)), ("w", format, (2, 3, 256), raw)], (1, 1, 1, 0)))
    tensor = read(path).tensors["w"]
    assert (tensor.format, tensor.shape, tensor.data.tobytes()) == (format, (2, 3, 256), raw)


def test_the_header_is_the_metadata(path: Path) -> None:
    metadata = open_weights(write_rwkvcpp(path, tiny("4"), type="f16")).metadata
    assert metadata == {"version": 101, "n_vocab": 97, "n_embed": 64, "n_layer": 3, "data_type": 1}


def test_a_file_is_recognised_by_its_first_bytes(path: Path) -> None:
    assert matches(b"fmgg\x65\0\0\0", path)
    assert not matches(b"GGUF\x65\0\0\0", path)


# What it refuses, and how.


def test_file_version_100_is_read_only_unquantized(path: Path) -> None:
    """Its quantized blocks are laid out differently under the same type numbers."""
    write_rwkvcpp(path, tiny("4"), version=100, type="f16")
    assert open_weights(path).tensors.keys() == tiny("4").keys()
    write_rwkvcpp(path, tiny("4"), version=100, type="q8_0")
    message = refusal(path, path.read_bytes())
    assert message.endswith("is stored as the q8_0 of rwkv.cpp file version 100; quantize the FP16 file again")


@pytest.mark.parametrize("version", [0, 1, 99, 102, 1 << 31])
def test_other_file_versions_are_named(version: int, path: Path) -> None:
    message = refusal(path, file_bytes([], (1, 1, 1, 0), version))
    assert message == f"has rwkv.cpp file version {version}, expected 100 or 101"


@pytest.mark.parametrize(("kind", "name"), [*UNSUPPORTED_TYPES.items(), (17, "data type 17")])
def test_types_without_a_decoder_are_named(kind: int, name: str, path: Path) -> None:
    data = file_bytes([("w", "f32", (32,), bytes(128))], (1, 1, 1, 0))
    at = 24 + 8
    message = refusal(path, data[:at] + struct.pack("<I", kind) + data[at + 4 :])
    assert message == f"tensor 'w' is stored as {name}, which this engine does not read"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 0, 3), "tensor 'w' has shape [2, 0, 3], expected no empty axis"),
        ((3, 33), "tensor 'w' has rows of 33 weights, expected a multiple of 32 for q8_0"),
        ((4, 64), "tensor 'w' ends 204 bytes after the end of the file"),
        (((1 << 32) - 1, (1 << 32) - 1, 32), "tensor 'w' ends 627"),
        ((1, 1, 1, 32), "has no tensor at byte 24, where one is expected"),
        ((), "has no tensor at byte 24, where one is expected"),
    ],
)
def test_impossible_shapes_are_named(shape: tuple[int, ...], words: str, path: Path) -> None:
    assert refusal(path, file_bytes([("w", "q8_0", shape, bytes(68))], (1, 1, 1, 0))).startswith(words)


def test_a_tensor_that_is_there_twice_is_refused(path: Path) -> None:
    twice = [("w", "f32", (1,), bytes(4))] * 2
    assert refusal(path, file_bytes(twice, (1, 1, 1, 0))) == "tensor 'w' is there twice"


def test_a_header_that_contradicts_the_tensors_is_refused(path: Path) -> None:
    blobs = blobs_of(tiny("4"))
    message = refusal(path, file_bytes(blobs, (98, 64, 3, 0)))
    assert message == "tensor emb.weight is of shape [97, 64], expected [98, 64] as the header says"
    for n_layer in (0, 2, 4):
        assert refusal(path, file_bytes(blobs, (97, 64, n_layer, 0))).startswith(f"the header says {n_layer} layers")


@pytest.mark.parametrize(
    ("version", "number", "expected"),
    [("4", 0.5, "numbers up to 0"), ("5.2", 1.5, "numbers from 0 to 1"), ("5.0", np.nan, "numbers from 0 to 1")],
)
def test_decays_that_no_exponential_gives_are_refused(version: str, number: float, expected: str, path: Path) -> None:
    blobs = blobs_of(tiny(version))
    name = "blocks.0.att.time_decay"
    blobs = [(n, f, shape, struct.pack("<f", number) + raw[4:] if n == name else raw) for n, f, shape, raw in blobs]
    message = refusal(path, file_bytes(blobs, (97, 64, 3, 0)))
    assert message == f"tensor '{name}' is expected to hold {expected}"


@pytest.mark.parametrize("name", ["blocks.0.att.time_decay", "blocks.0.att.x_rwkvag", "blocks.0.ln1.weight"])
def test_vectors_in_blocks_across_their_shape_are_refused(name: str, path: Path) -> None:
    version = "7" if "rwkvag" in name else "4"
    across = (name, "q8_0", (4, 32), bytes(136))
    blobs = [across if blob[0] == name else blob for blob in blobs_of(tiny(version))]
    assert name in refusal(path, file_bytes(blobs, (97, 64, 3, 0)))
