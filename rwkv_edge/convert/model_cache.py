"""Converted models in the user's cache directory: GGUF files that later runs map, instead of converting again.

A file's name holds a hash of all that its contents depend on, so that one for another source, format or version of the
encoders is never taken. The ones used last stay. What cannot be read is made anew; where nothing can be written, a warning
says so and the model is converted in memory.
"""
import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from rwkv_edge import quant
from rwkv_edge.arch import read_shape
from rwkv_edge.arch.fingerprint import fingerprint
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.files import write_gguf
from rwkv_edge.convert.mix import MATRIX, mix_of
from rwkv_edge.convert.replacing import remove_abandoned
from rwkv_edge.convert.to_gguf import gguf_entries
from rwkv_edge.errors import ModelFileError, OutputError
from rwkv_edge.machine import user_cache
from rwkv_edge.progress import Progress
from rwkv_edge.weights import Tensor, Weights, open_weights
from rwkv_edge.weights.names import gguf as gguf_names

FOLDER = "models"
KEPT = 4  # models


class ModelCacheWarning(UserWarning):
    """A converted model cannot be kept, and will be converted again next time."""


def kept(weights: Weights, type: str, *, threads: int | None = None, progress: Progress | None = None) -> Weights:
    """The model with the tensors of its copy in `type` (a key of MIXES), mapped; the copy is made where there is none.

    threads, progress: as for `quantize`. `weights` itself, where the large matrices are in their formats already, or, with a
    ModelCacheWarning, where no copy can be made.
    """
    try:
        entries = gguf_entries(weights, read_shape(weights), mix_of(type))
        if all(entry.format == part.format for entry in entries for part in entry.parts if MATRIX.fullmatch(part.name)):
            return weights
        name = _name(weights, type)
        tensors = _found(name, entries) or _made(name, entries, weights, type, threads, progress)
        return replace(weights, tensors=tensors)
    except OSError as error:
        reason = f"{error.filename or 'its file'}: {str(error.strerror or error).lower()}"
    except (OutputError, ModelFileError) as error:
        reason = str(error)
    warnings.warn(f"the converted model is not kept: {reason}", ModelCacheWarning, stacklevel=5)
    return weights


def files() -> list[Path]:
    """The models that are kept, the one used last first."""
    found = [path for folder in user_cache.folders(FOLDER) if folder.is_dir() for path in folder.glob("*.gguf")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def clear() -> None:
    """Remove them all, and what interrupted processes left. Raises OutputError."""
    try:
        for path in files():
            path.unlink()
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be removed: {str(error.strerror).lower()}") from error
    for folder in user_cache.folders(FOLDER):
        remove_abandoned(folder)


def _found(name: str, entries: Sequence[Entry]) -> Mapping[str, Tensor] | None:
    for folder in user_cache.folders(FOLDER):
        tensors = _opened(folder / name, entries)
        if tensors is not None:
            return tensors
    return None


def _opened(path: Path, entries: Sequence[Entry]) -> Mapping[str, Tensor] | None:
    """None where the file is missing, damaged or something else."""
    try:
        tensors = open_weights(path).tensors
    except ModelFileError:
        return None
    for entry in entries:
        for part in entry.parts:
            found = tensors.get(part.name)
            if found is None or (found.shape, found.format) != (part.shape, entry.format):
                return None
    with suppress(OSError):
        os.utime(path)  # in use: removed last
    return tensors


def _made(
    name: str, entries: Sequence[Entry], weights: Weights, type: str, threads: int | None, progress: Progress | None
) -> Mapping[str, Tensor]:
    """Raises OutputError, OSError or ModelFileError."""
    problem: Exception = OutputError("there is no cache directory; name one with " + user_cache.OVERRIDE)
    for folder in user_cache.folders(FOLDER):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_gguf(weights, folder / name, type, threads=threads, progress=progress)
        except (OSError, OutputError) as error:
            problem = error
            continue
        _prune(folder)
        if tensors := _opened(folder / name, entries):
            return tensors
        problem = OutputError(f"{folder / name}: cannot be read back")
    raise problem


def _prune(folder: Path) -> None:
    remove_abandoned(folder)
    with suppress(OSError):  # in use, on Windows
        for path in sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            path.unlink()


def _name(weights: Weights, type: str) -> str:
    """Raises OSError where the source is gone."""
    folder = weights.path if weights.path.is_dir() else weights.path.parent
    several = weights.path.is_dir() or "split.count" in weights.metadata
    sources = sorted(path for path in folder.iterdir() if path.is_file()) if several else [weights.path]
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    digest = hashlib.sha256("\0".join([fingerprint(weights), type, repr(stamps), _version()]).encode())
    stem = re.sub(r"[^\w.-]", "_", weights.path.name if weights.path.is_dir() else weights.path.stem)[:100]
    return f"{stem}-{type}-{digest.hexdigest()[:16]}.gguf"


@cache
def _version() -> str:
    """Of the encoders, the tables that say what is encoded how, and the file's layout. Raises OSError: in an archive."""
    digest = hashlib.sha256()
    for folder in (Path(quant.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(Path(gguf_names.__file__).read_bytes())
    return digest.hexdigest()
