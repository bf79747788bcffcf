"""Writes a .pth as torch.save does, tensor by tensor: no tensor is in memory whole."""
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints.gguf import encoded
from tests.checkpoints.pth import ALIGNMENT, Window, contiguous_strides, program

ZIP64_EXTRA = 20  # bytes that zipfile adds to a local header behind our own


def write_pth(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], Iterator[NDArray[np.float32]]]], dtype: str
) -> None:
    """tensors: name -> (shape, its numbers in pieces, row-major). dtype: "bf16", "f16" or "f32"."""
    windows = {
        name: Window(str(i), dtype, math.prod(shape), 0, shape, contiguous_strides(shape))
        for i, (name, (shape, _)) in enumerate(tensors.items())
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", [program(windows)])
        _add(archive, "byteorder", [b"little"])
        for i, (_, numbers) in enumerate(tensors.values()):
            _add(archive, f"data/{i}", (encoded(piece, dtype) for piece in numbers))
        _add(archive, "version", [b"3\n"])


def _add(archive: zipfile.ZipFile, name: str, data: Iterable[bytes]) -> None:
    """A stored entry whose data begins at a multiple of 64 bytes."""
    info = zipfile.ZipInfo(f"model/{name}")
    at = archive.fp.tell() + 30 + len(info.filename) + 4 + ZIP64_EXTRA  # type: ignore[union-attr]
    padding = -at % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=True) as entry:
        for piece in data:
            entry.write(piece)
