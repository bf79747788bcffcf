"""The 20B vocabulary of the Pile and Raven models (RWKV-4), through the optional `tokenizers` package.

`20B_tokenizer.json` describes a byte-level BPE. Encoding is that package's work. Decoding is ours: its tokens are
written in a printable alphabet of 256 characters, one for each byte, and streaming needs the bytes.
"""

import json
from pathlib import Path

from rwkv_edge.errors import MissingExtraError, ModelFileError, TokenizerError
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.tokenizer.table import TokenTable, id_table
from rwkv_edge.tokenizer.text import text_bytes
from rwkv_edge.tokenizer.vocab_text import MAX_FILE


class BpeTokenizer(TokenTable):
    """A byte-level BPE read from a `tokenizer.json`.

    Special tokens (`<|endoftext|>`, id 0) decode to nothing. As in the official package, text that spells a special
    token encodes to it, and text is brought to Unicode NFC first, so other forms do not come back byte for byte.
    """

    def __init__(self, path: str | Path, vocab_size: int | None = None) -> None:
        """Reads `path`.

        Args:
            path: a `tokenizer.json`, such as `20B_tokenizer.json`.
            vocab_size: the model's embedding rows; None: as many as the file has ids.

        Raises TokenizerError where the file is not a byte-level BPE that fits, MissingExtraError without `tokenizers`.
        """
        try:
            description = read_small_file(Path(path), MAX_FILE, "a tokenizer.json").decode("utf-8")
            kind = json.loads(description)["model"]["type"]
        except ModelFileError as error:
            raise TokenizerError(str(error)) from None
        except (ValueError, LookupError, TypeError, RecursionError):
            kind = None
        if kind != "BPE":
            raise TokenizerError(f"{path} is not a BPE tokenizer.json: expected a file like 20B_tokenizer.json")
        try:
            import tokenizers
        except ImportError:
            raise MissingExtraError(
                f"reading {path} needs the tokenizers package: pip install 'rwkv-edge[bpe]'"
            ) from None
        try:
            self._bpe = tokenizers.Tokenizer.from_str(description)
        except Exception as error:  # the package raises bare Exception
            raise TokenizerError(f"{path} is not a tokenizer.json that can be used: {error}") from None
        self._bpe.no_truncation()
        self._bpe.no_padding()

        added = self._bpe.get_added_tokens_decoder()
        tokens = {i: b"" if token.special else text_bytes(token.content) for i, token in added.items()}
        for token, i in self._bpe.get_vocab(with_added_tokens=False).items():
            if i not in added:
                tokens[i] = _token_bytes(token, path)
        super().__init__(id_table(tokens, vocab_size, str(path)))

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of `text`. Raises TokenizerError where it is not valid Unicode: a BPE cannot hold arbitrary bytes."""
        try:
            words = text_bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"the text is not UTF-8 at byte {error.start}: this vocabulary needs text") from None
        ids: list[int] = self._bpe.encode(words, add_special_tokens=False).ids
        return ids


def _alphabet() -> dict[str, int]:
    """The byte each character of a byte-level BPE stands for.

    Printable Latin-1 stands for itself; the other bytes, in order, are the characters from U+0100 on (GPT-2's rule).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _alphabet()


def _token_bytes(token: str, path: str | Path) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError as error:
        raise TokenizerError(
            f"{path}: token {token!r:.40} holds {error.args[0]!r}, expected the 256 characters of a byte-level BPE"
        ) from None
