"""A model directory as Hugging Face lays it out: config.json, a vocabulary, and the weights in one file or in shards.

Source: the transformers documentation on sharded checkpoints (`weight_map` in <file>.index.json).
"""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rwkv_edge.errors import ModelFileError, quoted
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.strict_json import JsonRefused, parse_object
from rwkv_edge.weights.tensor import Tensor

INDEX_SUFFIX = ".index.json"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Names that stand for "the model of this directory", so that config.json beside them describes them.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".st", ".pth", ".pt", ".gguf", ".bin")
VOCABULARIES = ("rwkv_vocab*.txt", "tokenizer.json", "20B_tokenizer.json")
MAX_JSON_BYTES = 8 << 20
MAX_SHARDS = 1000

Reader = Callable[[Path], RawFile]


def read_directory(directory: Path, read_file: Reader) -> RawFile:
    """The model in `directory`, with `describe`d metadata; `read_file` opens one file of any format."""
    for name in INDICES:
        if (directory / name).exists():
            return read_index(directory / name, read_file)
    return replace(describe(read_file(_only_model(directory)), directory), path=directory)


def read_index(index: Path, read_file: Reader) -> RawFile:
    """All shards that an index file names, as one RawFile whose path is the directory."""
    shards = _shards(index)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    source = ""
    for name, expected in shards.items():
        path = index.parent / name
        if not path.exists():
            raise ModelFileError(f"{index}: shard {quoted(name)} is missing")
        shard = read_file(path)
        missing = next((tensor for tensor in expected if tensor not in shard.tensors), None)
        if missing is not None:
            raise ModelFileError(f"{index}: tensor {quoted(missing)} is not in shard {quoted(name)}")
        twice = next((tensor for tensor in shard.tensors if tensor in tensors), None)
        if twice is not None:
            raise ModelFileError(f"{index}: tensor {quoted(twice)} is in two shards")
        tensors |= shard.tensors
        metadata |= shard.metadata
        source = shard.source
    return describe(RawFile(index.parent, source, tensors, metadata), index.parent)


def describe(raw: RawFile, directory: Path) -> RawFile:
    """`raw` with what lies beside it in a model directory: metadata "config" (dict) and "vocabulary_file" (text)."""
    beside: dict[str, Any] = {}
    if (directory / "config.json").exists():
        beside["config"] = read_json(directory / "config.json")
    vocabulary = next((found for pattern in VOCABULARIES for found in sorted(directory.glob(pattern))), None)
    if vocabulary is not None:
        beside["vocabulary_file"] = str(vocabulary)
    return replace(raw, metadata={**raw.metadata, **beside})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelFileError."""
    try:
        return parse_object(read_small_file(path, MAX_JSON_BYTES, "a JSON file"))
    except JsonRefused as error:
        raise ModelFileError(f"{path}: {error}") from None


def _shards(index: Path) -> dict[str, list[str]]:
    """Shard file name -> the tensors the index places there."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: has no weight_map of tensor names to files")
    shards: dict[str, list[str]] = {}
    for tensor, name in weight_map.items():
        # A plain name: whatever the index says, nothing outside its directory is opened.
        if not isinstance(name, str) or not name.isprintable() or not _is_plain(name):
            where = f"tensor {quoted(tensor)} is in {quoted(name)}"
            raise ModelFileError(f"{index}: {where}, expected the name of a file beside the index")
        shards.setdefault(name, []).append(tensor)
    if len(shards) > MAX_SHARDS:
        raise ModelFileError(f"{index}: names {len(shards)} shards, expected at most {MAX_SHARDS}")
    return shards


def _is_plain(name: str) -> bool:
    """Whether `name` is a file's name and no path, on any system."""
    return name not in ("", ".", "..") and not any(mark in name for mark in "/\\:")


def _only_model(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    try:
        found = sorted(p for p in directory.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    except OSError as error:
        raise ModelFileError(f"{directory}: cannot be read: {str(error.strerror).lower()}") from error
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:4]) + (", ..." if len(found) > 4 else "")
        several, none = f"several model files ({names}); open one of them", f"no model file ({', '.join(SUFFIXES)})"
        raise ModelFileError(f"{directory}: holds {several if found else none}")
    return found[0]
