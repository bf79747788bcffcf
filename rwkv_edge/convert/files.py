"""Model files from model files: quantize, or convert between formats, tensor by tensor."""
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import ModelShape, build_plan, read_shape
from rwkv_edge.convert import gguf_format, to_gguf, to_safetensors
from rwkv_edge.convert.calibrate import activation_sizes, tokens_of
from rwkv_edge.convert.encoding import Importance, cores, encoder_for, write_entries
from rwkv_edge.convert.entry import Entry
from rwkv_edge.convert.mix import DEFAULT, MATRIX, MIXES, Mix, fitting, mix_of
from rwkv_edge.convert.replacing import replacing
from rwkv_edge.errors import InputError, OutputError
from rwkv_edge.progress import Progress
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.weights import Hints, Weights, open_weights

SUFFIXES = (".gguf", ".safetensors", ".st")


@dataclass(frozen=True, slots=True)
class Report:
    """What was written. seconds: wall time.  notes: sentences about what is not as one might expect."""

    path: Path
    type: str
    source_bytes: int
    bytes: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """A file to be written: its header, then the entries, each padded to `alignment`."""

    header: bytes
    entries: Sequence[Entry]
    alignment: int

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(-(-entry.nbytes // self.alignment) * self.alignment for entry in self.entries)


def quantize(
    source: str | Path,
    target: str | Path,
    type: str | None = None,
    *,
    threads: int | None = None,
    calibrate: str | Path | None = None,
    tokenizer: str | Path | None = None,
    importance: Importance | None = None,
    progress: Progress | None = None,
    calibration_progress: Progress | None = None,
) -> Report:
    """Write the model in `source` (any file that can be opened) to `target`; memory use is a few pieces of a tensor.

    target: what its name ends in decides. .gguf: quantized or floats, for llama.cpp too where it knows the version (6, 7).
        .safetensors: BlinkDL's names, shapes and orientation, floats. .st: the same for web-rwkv, under its names.
    type: a key of MIXES; None: DEFAULT for .gguf, else the float format of the source (f16 for a quantized one, and for .st).
    threads: that encode; None: all cores this process may use.
    calibrate: a text file. The model reads it first (at most MOST_TOKENS of it), and where its activations are larger, weights
        become more exact. tokenizer: for that, a vocabulary file; None: the model's own.
    importance: the same from elsewhere: tensor name (ours) -> float32 [width], how much an error in each column matters.
    progress: called with the bytes of the source that are done, and all of them. calibration_progress: with tokens.

    The file appears when it is complete: an interrupt or a full disk leaves nothing behind, and what was there before.
    Raises ModelFileError, InputError (unknown type or ending, a text that is too short), TokenizerError (no vocabulary for the
    text), OutputError (disk full, or `target` is the source).
    """
    start = time.perf_counter()
    target = Path(target)
    if tokenizer is not None and calibrate is None:
        raise InputError("tokenizer is the vocabulary for calibrate: give its text, too")
    if importance is not None and calibrate is not None:
        raise InputError("calibrate finds the importance of columns: importance cannot be given too")
    _check(target, type, threads)
    weights = open_weights(source)
    _refuse_overwriting(weights, Path(source), target)
    build_plan(weights)  # refuses what could not run
    shape = read_shape(weights)
    type = type.lower() if type else _default_type(weights, target)
    contents = _contents(weights, shape, target, type)
    if calibrate is not None:
        _refuse_pointless(contents.entries, type)
        text = tokens_of(weights, shape.n_vocab, calibrate, tokenizer)
        importance = activation_sizes(weights, text, threads=threads, progress=calibration_progress)
    _write(contents, target, threads, importance, progress)
    notes = tuple(_notes(weights, contents.entries, MIXES[type]))
    if target.suffix.lower() != ".gguf" and weights.hints.layer_norm_eps != Hints().layer_norm_eps:
        notes += (f"safetensors have no place for the layer norms' epsilon, which is {weights.hints.layer_norm_eps:g} here",)
    return Report(target, type, weights.nbytes, contents.nbytes, time.perf_counter() - start, notes)


def write_gguf(
    weights: Weights, target: Path, type: str, *, threads: int | None = None, progress: Progress | None = None
) -> None:
    """What `quantize` writes to a .gguf, of a model that is open. Raises ModelFileError, OutputError."""
    build_plan(weights)
    _write(_contents(weights, read_shape(weights), target, type), target, threads, None, progress)


def _write(
    contents: Contents, target: Path, threads: int | None, importance: Importance | None, progress: Progress | None
) -> None:
    with replacing(target, contents.nbytes) as file:
        file.write(contents.header)
        write_entries(
            file, contents.entries, contents.alignment, encoder=encoder_for(entry.format for entry in contents.entries),
            threads=threads or cores(), importance=importance, progress=progress,
        )  # fmt: skip


def _check(target: Path, type: str | None, threads: int | None) -> None:
    """Raises InputError for a wrong argument, before anything is opened."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be an integer from 1, got {threads!r}")
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target}: the name of what is written must end in {', '.join(SUFFIXES)}")
    mix_of(type or DEFAULT)


def _default_type(weights: Weights, target: Path) -> str:
    if target.suffix.lower() == ".gguf":
        return DEFAULT
    stored = weights.tensors["blocks.0.att.key.weight"].format
    return stored if FORMATS[stored].is_float and target.suffix.lower() != ".st" else "f16"


def _contents(weights: Weights, shape: ModelShape, target: Path, type: str) -> Contents:
    mix = MIXES[type]
    if target.suffix.lower() == ".gguf":
        entries = to_gguf.gguf_entries(weights, shape, mix)
        return Contents(
            gguf_format.header(to_gguf.gguf_fields(weights, shape, mix), entries), entries, gguf_format.ALIGNMENT
        )
    if not mix.is_float:
        raise InputError(f"{target}: safetensors hold f32, f16 or bf16, not {type}: write a .gguf instead")
    naming = to_safetensors.web_rwkv_entries if target.suffix.lower() == ".st" else to_safetensors.original_entries
    entries = naming(weights, shape, mix)
    return Contents(to_safetensors.header(entries), entries, 1)


def _refuse_pointless(entries: Sequence[Entry], type: str) -> None:
    """Raises InputError where calibration changes nothing."""
    if all(FORMATS[entry.format].is_float or entry.format == "q8_0" for entry in entries):
        raise InputError(f"{type} is the same with and without calibration: floats and Q8_0 are rounded, not searched")


def _refuse_overwriting(weights: Weights, source: Path, target: Path) -> None:
    """Of a model in several files, none beside them is overwritten."""
    if not os.path.exists(target):
        return
    several = source.is_dir() or source.suffix == ".json" or "split.count" in weights.metadata
    folder = source if source.is_dir() else source.parent
    if target.samefile(source) or (several and target.resolve().parent == folder.resolve()):
        raise OutputError(f"{target}: belongs to the model that is read; write to another name")


def _notes(weights: Weights, entries: Sequence[Entry], mix: Mix) -> list[str]:
    """What was substituted, and what was quantized before."""
    matrices = [entry for entry in entries if MATRIX.fullmatch(entry.parts[0].name)]
    substituted: Counter[tuple[str, str, int]] = Counter()
    for entry in matrices:
        wanted = mix.wanted(entry.parts[0].name)
        if wanted != fitting(wanted, entry.shape[-1]) == entry.format:
            substituted[wanted, entry.format, entry.shape[-1]] += 1
    notes = [
        f"{n} matrices of width {width} are {got}, because {wanted} needs a multiple of {FORMATS[wanted].block_size}"
        for (wanted, got, width), n in substituted.items()
    ]
    twice = {entry.parts[0].format for entry in matrices if entry.parts[0].format != entry.format}
    if lossy := sorted(format for format in twice if not FORMATS[format].is_float):
        notes.append(f"the source is quantized already ({', '.join(lossy)}): quantizing the original would lose less")
    if any(name.endswith("att.time_state") for name in weights.tensors):
        notes.append("the model has a tuned initial state, which llama.cpp does not know")
    return notes
