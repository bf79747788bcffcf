"""An answer while it is being written."""
from collections.abc import Callable, Generator, Iterator, Sequence

from rwkv_edge.chat.thinking import Piece, ThinkSplitter
from rwkv_edge.state import State
from rwkv_edge.text.generation import FinishReason, TextStream


class Reply(Iterator[str]):
    """The answer's pieces as they come, one a token: "" while the model thinks, or while a character is not whole.

    `pieces` gives the thoughts as well. White space around both parts is left out of `thinking` and `answer`.

    stream: the text as the model writes it.  opening: how the prompt begins it already.  state: the one that is advanced.
    ended: called once, when nothing more will come; `failed` says that it was an error or KeyboardInterrupt, after which
        the state is of no use.

    One thread reads a reply; `cancel` may be called from any, and from a signal handler.
    """

    def __init__(self, stream: TextStream, opening: str, state: State, ended: Callable[["Reply"], None]) -> None:
        self._stream, self._state, self._ended = stream, state, ended
        self._opening = opening
        self._parts = {True: "", False: ""}
        self._pieces = self._run()
        self.written = ""
        """The text that the model wrote behind the prompt, marks included."""
        self.prompt_tokens = 0
        """How many tokens were read before the first one was written."""
        self.failed = False

    def _run(self) -> Generator[Piece, None, None]:
        splitter, before = ThinkSplitter(), self._state.tokens_seen
        try:
            list(splitter.push(self._opening))
            for text in self._stream:
                self.prompt_tokens = self.prompt_tokens or self._state.tokens_seen - before
                self.written += text
                # At least one for each token, so that whoever reads them can look up in between.
                yield from self._kept(splitter.push(text), or_else=Piece(""))
            self.prompt_tokens = self.prompt_tokens or self._state.tokens_seen - before
            yield from self._kept(splitter.finish())
        except BaseException:
            self.failed = True
            raise
        finally:
            self._ended(self)

    def _kept(self, pieces: Iterator[Piece], or_else: Piece | None = None) -> Iterator[Piece]:
        for piece in pieces:
            self._parts[piece.thinking] += piece.text
            yield piece
            or_else = None
        if or_else is not None:
            yield or_else

    def pieces(self) -> Iterator[Piece]:
        """All that is still to come, thoughts and answer: pieces with `text` and `thinking` (True or False)."""
        return self._pieces

    def __next__(self) -> str:
        piece = next(self._pieces)
        return "" if piece.thinking else piece.text

    def read(self) -> str:
        """The whole answer, once it is written."""
        for _ in self._pieces:
            pass
        return self.answer

    @property
    def answer(self) -> str:
        """What came of it so far."""
        return self._parts[False].strip()

    @property
    def thinking(self) -> str:
        """What was thought so far."""
        return self._parts[True].strip()

    @property
    def finish_reason(self) -> FinishReason | None:
        """See `TextStream`."""
        return self._stream.finish_reason

    @property
    def tokens(self) -> Sequence[int]:
        """See `TextStream`."""
        return self._stream.tokens

    @property
    def unseen(self) -> bytes:
        """See `TextStream`."""
        return self._stream.unseen

    def cancel(self) -> None:
        """The answer ends here, within one token; returns at once. What was written stays in the conversation."""
        self._stream.cancel()

    def close(self) -> None:
        """Cancel, and take what is left. Calling it again does nothing."""
        self._stream.close()
        self.read()

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
