"""Vocabularies in the text format of `rwkv_vocab_v20230424.txt`: `ID LITERAL LENGTH` on each line.

LITERAL is a Python `str` or `bytes` literal (a `str` stands for its UTF-8), LENGTH its number of bytes.
"""

import re
from ast import literal_eval
from pathlib import Path

from rwkv_edge.errors import ModelFileError, TokenizerError
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.tokenizer.table import id_table
from rwkv_edge.tokenizer.trie import TrieTokenizer

MAX_FILE = 64 << 20
"""Bytes a vocabulary file may have; the official one has 1.2 million. More is a model given by mistake."""

_MAX_LINE = 8192
_LINE = re.compile(
    r"""([0-9]{1,9})\ (b?(?:'(?:[^'\\]|\\[\\'"abfnrtvxuU0-7])*'|"(?:[^"\\]|\\[\\'"abfnrtvxuU0-7])*"))\ ([0-9]{1,9})""",
    re.VERBOSE,
)


def vocab_text_tokenizer(path: str | Path, vocab_size: int | None = None) -> TrieTokenizer:
    """The greedy longest-match tokenizer of a vocabulary text file.

    Args:
        path: the file.
        vocab_size: the model's embedding rows; None: one more than the file's highest id.

    Raises TokenizerError naming the file, and the line where one is at fault.
    """
    table = id_table(read_vocab_text(path), vocab_size, str(path))
    try:
        return TrieTokenizer(table)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def read_vocab_text(path: str | Path) -> dict[int, bytes]:
    """The bytes of each id in a vocabulary text file. Raises TokenizerError naming the file and the line at fault."""
    try:
        data = read_small_file(Path(path), MAX_FILE, "a vocabulary text file")
    except ModelFileError as error:
        raise TokenizerError(str(error)) from None
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(data.rstrip(b"\r\n").split(b"\n") if data else [], 1):
        try:
            token_id, token = _parse(line.removesuffix(b"\r"))
            if token_id in tokens:
                raise ValueError(f"id {token_id} is there already: expected each id once")
        except ValueError as error:
            raise TokenizerError(f"{path}, line {number}: {error}") from None
        tokens[token_id] = token
    return tokens


def _parse(line: bytes) -> tuple[int, bytes]:
    if len(line) > _MAX_LINE:
        raise ValueError(f"{len(line)} bytes long, expected at most {_MAX_LINE}")
    try:
        match = _LINE.fullmatch(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if match is None:
        raise ValueError("expected ID LITERAL LENGTH, such as: 300 ' A' 2")
    token_id, literal, length = match.groups()
    try:
        value = literal_eval(literal)
        token = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    except (SyntaxError, ValueError):
        raise ValueError(f"{literal:.40} is not a Python string or bytes literal that stands for bytes") from None
    if not token:
        raise ValueError("the token is empty: expected at least one byte")
    if len(token) != int(length):
        raise ValueError(f"the token has {len(token)} bytes, but the line says {length}")
    return int(token_id), token
