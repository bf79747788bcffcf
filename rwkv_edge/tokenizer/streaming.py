"""Text as it is generated: token by token, never half a character."""

import codecs

from rwkv_edge.tokenizer.interface import Tokenizer


class StreamDecoder:
    """Decodes one sequence of tokens as they arrive.

    What `push` and `finish` return, joined, equals `tokenizer.decode` of all tokens. A character whose bytes are spread
    over several tokens comes out with the last of them; bytes that can no longer become a character come out as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps empty. Raises TokenizerError for an id outside the vocabulary."""
        return self._utf8.decode(self._tokenizer.decode_bytes((token,)))

    def finish(self) -> str:
        """What is left of an unfinished character: U+FFFD or nothing. The decoder is then ready for a new sequence."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
