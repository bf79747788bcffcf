"""Which tokenizer belongs to a model."""

from collections.abc import Sequence
from pathlib import Path

from rwkv_edge.errors import ModelFileError, TokenizerError
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.tokenizer.bpe import BpeTokenizer
from rwkv_edge.tokenizer.byte import ByteTokenizer
from rwkv_edge.tokenizer.gguf import gguf_tokenizer
from rwkv_edge.tokenizer.interface import Tokenizer
from rwkv_edge.tokenizer.vocab_text import MAX_FILE, vocab_text_tokenizer
from rwkv_edge.tokenizer.world import WORLD_ROWS, world_tokenizer

_WORLD_SIZES = (65529, 65530, WORLD_ROWS)
_PILE_SIZES = range(50254, 50433)  # 50277 in released files; with fewer added tokens, or padded to 50304 or 50432


def tokenizer_for(
    vocab_size: int, *, gguf_tokens: Sequence[str] | None = None, path: str | Path | None = None
) -> Tokenizer:
    """The tokenizer of a model: the one asked for, else the one its file brings, else the one its size tells.

    Args:
        vocab_size: the model's embedding rows.
        gguf_tokens: the GGUF metadata value `tokenizer.ggml.tokens`, where `tokenizer.ggml.model` is "rwkv".
        path: a vocabulary file: a BPE `tokenizer.json`, or a text file like `rwkv_vocab_v20230424.txt`.

    Raises TokenizerError where the file or the tokens are at fault, or no vocabulary is known for this size;
    MissingExtraError where a `tokenizer.json` needs a package that is not installed.
    """
    if path is not None:
        return BpeTokenizer(path, vocab_size) if _is_json(Path(path)) else vocab_text_tokenizer(path, vocab_size)
    if gguf_tokens is not None:
        return gguf_tokenizer(gguf_tokens, vocab_size)
    if vocab_size in _WORLD_SIZES:
        return world_tokenizer(vocab_size)
    if vocab_size == ByteTokenizer.vocab_size:
        return ByteTokenizer()
    if vocab_size in _PILE_SIZES:
        raise TokenizerError(
            f"a model with {vocab_size} tokens needs 20B_tokenizer.json, which is not part of rwkv-edge: "
            "take it from github.com/BlinkDL/ChatRWKV and pass --tokenizer 20B_tokenizer.json"
        )
    raise TokenizerError(
        f"no vocabulary is known for a model with {vocab_size} tokens (known: 256 bytes, {WORLD_ROWS} World): "
        "pass its vocabulary file with --tokenizer FILE"
    )


def _is_json(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        return True
    try:
        return read_small_file(path, MAX_FILE, "a vocabulary file")[:64].lstrip().startswith(b"{")
    except ModelFileError as error:
        raise TokenizerError(str(error)) from None
