"""Opening model files: `open_weights` for a model, `read_raw` for any file of tensors (LoRA, tuned states).

A reader per format (pth, safetensors, gguf, rwkvcpp) returns a RawFile, with the file's own names; `names` turns that
of a model into our Weights.
"""
from importlib import import_module
from pathlib import Path

from rwkv_edge.errors import ModelFileError
from rwkv_edge.machine.mapping import map_file
from rwkv_edge.weights.directory import INDEX_SUFFIX, WEIGHT_FILES, describe, read_directory, read_index
from rwkv_edge.weights.names import to_ours
from rwkv_edge.weights.raw import RawFile
from rwkv_edge.weights.tensor import Hints, Tensor, Weights

__all__ = ["Hints", "RawFile", "Tensor", "Weights", "open_weights", "read_raw"]

# Modules with `matches(head, path)` and `read(path)`, asked in this order: those with a magic number first.
READERS = ("gguf", "rwkvcpp", "pth", "safetensors")
HEAD_BYTES = 512

# What people have in hand when a download or a conversion went wrong: how the file begins -> what it is.
TELLTALES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; fetch it with git lfs pull"),
    (b"<", "is a web page or XML, not a model; the download may have failed"),
    (b"\x80", "is a bare pickle, which could run code when loaded; expected what torch.save writes, or safetensors"),
    (b"\x89HDF", "is an HDF5 file, expected a .pth, .safetensors, .gguf or rwkv.cpp model"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
)


def open_weights(path: str | Path) -> Weights:
    """A model's tensors under our names, memory-mapped: no tensor is read or copied, whatever its size.

    path: a .pth, .safetensors/.st, .gguf or rwkv.cpp file (told apart by content), an .index.json or a model directory.
    Raises ModelFileError, one sentence, for anything that is not a model this package can read.
    """
    return to_ours(read_raw(path))


def read_raw(path: str | Path) -> RawFile:
    """The tensors in a file or model directory under their own names; raises ModelFileError."""
    if path == "":  # as a Path it would be the current directory
        raise ModelFileError("the path of the model is empty")
    path = Path(path)
    try:
        if path.is_dir():
            return read_directory(path, _read_file)
        if path.name.endswith(INDEX_SUFFIX):
            return read_index(path, _read_file)
        raw = _read_file(path)
        return describe(raw, path.parent) if path.name in WEIGHT_FILES else raw
    except OSError as error:  # a directory that may not be searched, a name too long for the file system
        raise ModelFileError(f"{path}: cannot be opened: {str(error.strerror).lower()}") from error


def _read_file(path: Path) -> RawFile:
    head = map_file(path)[:HEAD_BYTES].tobytes()
    for name in READERS:
        module = import_module(f"{__name__}.{name}")
        if module.matches(head, path):
            raw: RawFile = module.read(path)
            return raw
    problem = next((what for start, what in TELLTALES if head.lstrip().startswith(start)), None)
    raise ModelFileError(f"{path}: {problem or 'does not begin like a .pth, .safetensors, .gguf or rwkv.cpp file'}")
