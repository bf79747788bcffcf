"""The bytes of a text, as every vocabulary here wants them."""

from rwkv_edge.errors import TokenizerError


def text_bytes(text: str | bytes) -> bytes:
    """`text` as bytes: a `str` in UTF-8, a bytes-like object as it is.

    Raises TokenizerError with the character's position where a `str` holds a lone surrogate, which UTF-8 cannot write.
    """
    if isinstance(text, str):
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise TokenizerError(
                f"the text's character {error.start} is the lone surrogate U+{code:04X}: expected valid Unicode"
            ) from None
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise TypeError(f"text must be str or bytes, not {type(text).__name__}")
