"""Model: a file opened for use. Text or tokens in, logits or text out."""
import re
import warnings
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.backend import TOKENS_PER_RUN, CompileOptions
from rwkv_edge.errors import InputError
from rwkv_edge.feeding import Feeder, Tokens, checked_tokens
from rwkv_edge.machine.turns import Turns
from rwkv_edge.progress import Progress
from rwkv_edge.state import State
from rwkv_edge.text.embedding import Pooling, check_pooling, pooled
from rwkv_edge.text.generation import BatchStream, Continuation, TextStream, for_each
from rwkv_edge.text.sampling import Sampler, Sampling, uncounted_tokens
from rwkv_edge.text.scoring import following, log_probabilities_of
from rwkv_edge.text.stop import Stop, StopFinder, stop_strings, stops_of_each
from rwkv_edge.tokenizer import END_OF_DOCUMENT, Tokenizer, tokenizer_for

if TYPE_CHECKING:  # what not everyone needs, or needs once, is imported where it is used
    from rwkv_edge.arch import ModelShape
    from rwkv_edge.chat import Chat, Format, Message
    from rwkv_edge.weights import Weights

SPACE_AFTER_ASSISTANT = re.compile(r"Assistant:[^\S\n]\s*$")


class PromptWarning(UserWarning):
    """A prompt that RWKV models are known to answer badly."""


class Model:
    """An RWKV model (4, 5.0, 5.1, 5.2, 6 or 7) from a .pth, .safetensors, .gguf or rwkv.cpp .bin file, or a model directory.

    strategy: "auto", or a backend and maybe a weight format: "cpu", "cpu fp32", "webgpu fp16", "webgpu:1", "numpy fp64";
        None: $RWKV_EDGE_STRATEGY, else "auto".
    tokenizer: a `Tokenizer`, or the path of a vocabulary; None: the file's own, or the one its vocabulary size implies.
    threads: of the CPU backend (None: the fast cores this process may use), and that convert weights (None: all of its cores).
    sparse: of the CPU backend: single tokens skip the weights that meet a zero in the channel-mix, which takes a second copy of
        its value matrices (a quarter to a third of the file) in memory; None: where that fits.
    lora, lora_alpha, lora_init: a LoRA file that is merged while loading, its alpha, and PiSSA's initial factors (lora.py).
    cache: keep what the strategy's weight format makes of the file in the user's cache directory, where the next start finds it
        (`rwkv_edge.convert.model_cache`). Not with a LoRA.
    progress: called while weights are converted, with the bytes of the file that are done, and all of them.

    Sequences are independent: each has a `State`, and the model may be shared by threads (their runs take turns). A state
    that is passed in is advanced in place, as in the official package; `State.copy` makes a branch.

    Raises ModelFileError for a file that is damaged or holds something else, StrategyError, BackendError.
    """

    def __init__(
        self,
        path: str | Path,
        strategy: str | None = None,
        *,
        tokenizer: Tokenizer | str | Path | None = None,
        threads: int | None = None,
        sparse: bool | None = None,
        lora: str | Path | None = None,
        lora_alpha: float | None = None,
        lora_init: str | Path | None = None,
        cache: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InputError(f"threads must be an integer from 1, got {threads!r}")
        from rwkv_edge.opening import Lora, opened

        options = CompileOptions(threads=threads, sparse=sparse)
        result = opened(path, strategy, options, Lora(lora, lora_alpha, lora_init), cache, progress)
        self.weights: Weights = result.weights
        self.shape: ModelShape = result.shape
        self.backend_name, self.plan, self._executable = result.compiled.name, result.compiled.plan, result.compiled.executable
        self.matrix_bytes = result.compiled.matrix_bytes
        self._strategy, self._threads = result.compiled.strategy, threads
        self._state_dtype = self._executable.state_dtype
        self._tokens_at_once = result.tokens_at_once
        self._feeder: Feeder | None = Feeder(self._executable, self._tokens_at_once)
        self._embedder: Feeder | None = None  # of the model without its head, when it is first wanted
        self._turns = Turns()
        self._tokenizer = tokenizer
        self._finalizers = [weakref.finalize(self, self._executable.close)]

    def close(self) -> None:
        """Give back threads and memory, the file's mapping included; the model cannot run afterwards."""
        with self._turns.lock:
            for finalizer in self._finalizers:
                finalizer()
            # Whatever refers to the file's mapping, so that it goes now, even if others still refer to the model.
            self._feeder = self._embedder = None
            self.__dict__.pop("_executable", None)
            self.plan = replace(self.plan, ops=())
            self.weights = self.weights.without_file()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("a Model cannot be pickled or copied: threads share it, other processes open the file again")

    @cached_property
    def fingerprint(self) -> str:
        """Names the model whatever file it came from; a state remembers it."""
        from rwkv_edge.arch.fingerprint import fingerprint

        self._check_open()
        return fingerprint(self.weights)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Found on first use, so that a model without a known vocabulary still runs on token ids. Raises TokenizerError."""
        if self._tokenizer is not None and not isinstance(self._tokenizer, str | Path):
            return self._tokenizer
        self._check_open()
        path = self._tokenizer or self.weights.metadata.get("vocabulary_file")
        return tokenizer_for(self.shape.n_vocab, gguf_tokens=self.weights.hints.vocabulary, path=path)

    def new_state(self) -> State:
        """The state of a sequence that has seen nothing."""
        self._check_open()
        return State.initial(self.plan.slots, self._state_dtype, self.fingerprint)

    def load_state(self, path: str | Path) -> State:
        """A state that `State.save` wrote, or a tuned initial state (.pth). Raises StateError: another model's, or no state."""
        from rwkv_edge.state.tuning import load_state

        return load_state(path, self.new_state(), self.shape)

    def ingest(
        self,
        document: str | Path,
        target: str | Path | None = None,
        *,
        state: State | None = None,
        progress: Progress | None = None,
    ) -> State:
        """The state after the text in a file, of any length; saved as `target`, resumable (see ingest.py)."""
        from rwkv_edge.ingest import ingest

        return ingest(self, Path(document), None if target is None else Path(target), state, progress)

    def forward(
        self, tokens: Tokens, state: State | None = None, full: bool = False
    ) -> tuple[NDArray[Any], State]:
        """Feed tokens; returns (logits, state).

        logits: float32 (float64 of "numpy fp64") [n_vocab] after the last token, or [T, n_vocab] after each one when `full`.
        state: the one passed in, advanced in place, or a new one; after an interrupt (KeyboardInterrupt) it is of no use.
        Raises InputError: no tokens, an id out of range; StateError: a state of another model.
        """
        logits, states = self.forward_batch([tokens], None if state is None else [state], full)
        return logits[0], states[0]

    def forward_batch(
        self, sequences: Sequence[Tokens], states: Sequence[State] | None = None, full: bool = False
    ) -> tuple[list[NDArray[Any]], list[State]]:
        """`forward` for several sequences of any lengths in one go; each needs a state of its own."""
        checked = [checked_tokens(tokens, self.shape.n_vocab) for tokens in sequences]
        states = self._checked_states(states, len(checked))
        with self._turns.lock:
            return self._check_open().run(checked, states, full), states

    def _checked_states(self, states: Sequence[State] | None, count: int) -> list[State]:
        """Those given, or new ones."""
        self._check_open()
        if states is None:
            return [self.new_state() for _ in range(count)]
        if len(states) != count:
            raise InputError(f"{count} sequences need as many states, got {len(states)}")
        for state in states:
            if not isinstance(state, State):
                raise InputError(f"expected a State, got {type(state).__name__}")
            state.check_fits(self.plan.slots, self.fingerprint, self._state_dtype)
        if count > 1 and len({state.array.ctypes.data for state in states}) != count:
            raise InputError("two sequences share a state; each needs one of its own (State.copy)")
        return list(states)

    def _check_open(self) -> Feeder:
        if self._feeder is None:
            raise InputError(f"the model {self.weights.path} is closed")
        return self._feeder

    def tokenize(self, text: str | bytes) -> list[int]:
        """The token ids of a text. Raises TokenizerError where the vocabulary does not cover it."""
        return self.tokenizer.encode(text)

    def detokenize(self, tokens: Tokens) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD (`tokenizer.decode_bytes` gives the bytes)."""
        return self.tokenizer.decode([int(token) for token in tokens])

    def _tokens_of(self, text: str | bytes | Tokens) -> NDArray[np.int32]:
        return checked_tokens(self.tokenize(text) if isinstance(text, str | bytes) else text, self.shape.n_vocab)

    def score(
        self, text: str | bytes | Tokens, state: State | None = None, logits: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """The log probability (natural) of each token, given those before it: float64 [T]. Their sum is that of the text.

        The first one is given the end of a document, which is fed before it; or what `state` has seen, and then it needs
        the `logits` that `forward` returned with that state. A state that is passed in has afterwards seen all T tokens.
        Raises InputError: no tokens, an id out of range, a state that has seen tokens without its logits.
        """
        tokens = self._tokens_of(text)
        (state,) = self._checked_states(None if state is None else [state], 1)
        if logits is None and state.tokens_seen:
            raise InputError("a state that has seen tokens needs the logits that came with it, to score the first token")

        def all_logits(piece: NDArray[np.int32]) -> NDArray[Any]:
            return self.forward(piece, state, full=True)[0]

        if logits is None:
            return following(np.append(np.int32(END_OF_DOCUMENT), tokens), all_logits)
        if np.shape(logits) != (self.shape.n_vocab,):
            raise InputError(f"logits must be those after the last token, [{self.shape.n_vocab}], got {list(np.shape(logits))}")
        first = log_probabilities_of(tokens[:1].astype(np.int64), np.asarray(logits)[None])
        return np.append(first, following(tokens, all_logits))

    def embed(
        self, text: str | bytes | Tokens, state: State | None = None, *, pooling: Pooling = "last", normalize: bool = False
    ) -> NDArray[np.float32]:
        """A text as a vector, float32 [n_embd]: the row that the head would turn into logits (behind the final norm).

        pooling: "last", of the last token, which has seen all others; or "mean", over the tokens.
        normalize: to Euclidean length 1, so that the dot product of two is their cosine similarity.
        state: what comes before the text; advanced in place.
        The first call compiles the model once more, without its head. The weights are shared, except in a split with a device
        that does not have the last layers: there it takes a second copy of its matrices.
        Raises InputError: no tokens, an id out of range, another pooling.
        """
        check_pooling(pooling)
        tokens = self._tokens_of(text)
        states = self._checked_states(None if state is None else [state], 1)

        def rows() -> Iterator[NDArray[Any]]:
            for start in range(0, len(tokens), TOKENS_PER_RUN):
                piece = tokens[start : start + TOKENS_PER_RUN]
                with self._turns.lock:
                    (found,) = self._hidden_feeder().run([piece], states, pooling == "mean")
                yield np.atleast_2d(found)

        return pooled(rows(), pooling, normalize)

    def _hidden_feeder(self) -> Feeder:
        """Inside a turn: what runs the model up to its head."""
        self._check_open()
        if self._embedder is None:
            from rwkv_edge.strategy import headless

            executable = headless(self._executable, self.plan, self._strategy, self._threads)
            self._finalizers.append(weakref.finalize(self, executable.close))
            self._embedder = Feeder(executable, self._tokens_at_once)
        return self._embedder

    def encode_prompt(self, prompt: str | bytes) -> list[int]:
        """Token ids of a prompt; warns (PromptWarning) where the model cards say that the answer will suffer."""
        if not isinstance(prompt, str | bytes):
            raise InputError(f"the prompt must be text or bytes, got {type(prompt).__name__}")
        end = prompt[-40:] if isinstance(prompt, str) else prompt[-40:].decode("utf-8", errors="replace")
        if SPACE_AFTER_ASSISTANT.search(end):
            message = 'the prompt ends in "Assistant: "; leave the space out, these models expect to write it themselves'
            warnings.warn(message, PromptWarning, stacklevel=3)
        return self.tokenizer.encode(prompt)

    def stream_tokens(
        self, tokens: Tokens, state: State | None = None, *, max_tokens: int = 256, sampler: Sampler | None = None
    ) -> Iterator[int]:
        """Continue `tokens` (none, for a new state: from the start of a document) until the end of the document or max_tokens.

        A state that was passed in has afterwards seen everything that was yielded; after `close` of the generator, all but
        the last token.
        """
        sampler = sampler or Sampler()
        sampler.check_fits(self.shape.n_vocab)
        return self._continue(self._first_tokens(tokens, state, max_tokens), state, max_tokens, sampler)

    def _first_tokens(self, tokens: Tokens, state: State | None, max_tokens: int) -> list[int]:
        if type(max_tokens) is not int or max_tokens < 1:
            raise InputError(f"max_tokens must be an integer from 1, got {max_tokens!r}")
        if len(tokens) == 0 and state is not None and state.tokens_seen:
            raise InputError("the prompt is empty; a state that has seen tokens needs at least one more to go on from")
        first: list[int] = checked_tokens([END_OF_DOCUMENT] if len(tokens) == 0 else tokens, self.shape.n_vocab).tolist()
        return first

    def _continue(self, tokens: list[int], state: State | None, max_tokens: int, sampler: Sampler) -> Iterator[int]:
        kept = state is not None
        logits, state = self.forward(tokens, state)
        for n in range(1, max_tokens + 1):
            token = sampler.sample(logits)
            if token == END_OF_DOCUMENT:
                return
            yield token
            if n < max_tokens or kept:
                logits, state = self.forward([token], state)

    def stream(
        self,
        prompt: str | bytes,
        state: State | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | Sampler | None = None,
        stop: Stop = (),
    ) -> TextStream:
        """The continuation of `prompt` as pieces of text, one a token ("" while a character is not whole yet).

        It ends with the document, before a stop string, which is not part of it, or after max_tokens tokens.
        state: what comes before the prompt; `TextStream` says what it has seen afterwards.
        sampling: how to choose tokens; a `Sampler` goes on from what it has drawn already.
        stop: a text, or several, that the continuation must not contain; found wherever the borders between tokens fall.
        Raises InputError: max_tokens, a stop string or an empty prompt that cannot be.
        """
        return TextStream(self._together([self._continuation(self.encode_prompt(prompt), state, max_tokens, sampling, stop)]))

    def generate(
        self,
        prompt: str | bytes,
        state: State | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | Sampler | None = None,
        stop: Stop = (),
    ) -> str:
        """The continuation of `prompt` as one text; see `stream`."""
        one = self._continuation(self.encode_prompt(prompt), state, max_tokens, sampling, stop)
        with TextStream(self._together([one])) as stream:
            return "".join(stream)

    def chat(
        self,
        messages: "Iterable[Message | Mapping[str, Any]]" = (),
        *,
        format: "str | Format | None" = None,
        think: str = "off",
        system: str | None = None,
        state: State | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Stop = (),
    ) -> "Chat":
        """A conversation: `chat.ask(text)` answers as it is written, and each turn costs only its new tokens.

        messages: what was said before, as dicts with "role" and "content"; where a user's is the last, `chat.reply()` answers.
        format: a name of `rwkv_edge.chat.FORMATS`, "template", or a `ChatFormat`; None: the one this model was trained on.
        think: one of the format's modes.  system: the system prompt.  state: what comes before all of it; is kept as it is.
        sampling: None: what the model cards advise.  max_tokens: of one reply; None: 4096.  stop: ends one, too.
        Raises InputError for a format, mode or message that cannot be.
        """
        from rwkv_edge.chat import Chat

        return Chat(
            self, messages, format=format, think=think, system=system, state=state,
            sampling=sampling, max_tokens=max_tokens, stop=stop,
        )  # fmt: skip

    def astream(
        self,
        prompt: str | bytes,
        state: State | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | Sampler | None = None,
        stop: Stop = (),
    ) -> AsyncIterator[str]:
        """`stream` for `async for`: the model runs in a thread, which ends with the iteration.

        A task that is cancelled waits for the token that is being computed, and no longer.
        """
        from rwkv_edge.text.asynchronous import pieces_of  # asyncio takes a fifth of the time to load everything

        one = self._continuation(self.encode_prompt(prompt), state, max_tokens, sampling, stop)
        return pieces_of(TextStream(self._together([one])))

    def stream_batch(
        self,
        prompts: Sequence[str | bytes],
        states: Sequence[State | None] | None = None,
        *,
        max_tokens: int | Sequence[int] = 256,
        sampling: Sampling | Sequence[Sampling | Sampler | None] | None = None,
        stop: Stop | Sequence[Stop] = (),
    ) -> BatchStream:
        """The continuations of several prompts, computed together: (number of the prompt, piece of its text) as they come.

        Each goes its own way, as with `stream`, but for rounding; one that ends makes room for the others. With one
        `Sampling` for all, each prompt has a sampler of its own with that seed. max_tokens, sampling and stop may also be
        lists with an entry for each prompt (of stop: lists of texts). Raises InputError as `stream`.
        """
        if isinstance(prompts, str | bytes):
            raise InputError("expected several prompts, got one text")
        encoded = list(map(self.encode_prompt, prompts))
        n = len(encoded)
        of_each = zip(
            encoded,
            for_each("states", [None] * n if states is None else states, n),
            for_each("max_tokens", [max_tokens] * n if isinstance(max_tokens, int) else max_tokens, n),
            for_each("sampling", sampling if isinstance(sampling, Sequence) else [sampling] * n, n),
            for_each("stop", stops_of_each(stop, n), n),
            strict=True,
        )
        together = [self._continuation(*one) for one in of_each]
        self._checked_states([one.state for one in together], n)
        return self._together(together)

    def generate_batch(
        self,
        prompts: Sequence[str | bytes],
        states: Sequence[State | None] | None = None,
        *,
        max_tokens: int | Sequence[int] = 256,
        sampling: Sampling | Sequence[Sampling | Sampler | None] | None = None,
        stop: Stop | Sequence[Stop] = (),
    ) -> list[str]:
        """The continuations of several prompts, computed together, as texts; see `stream_batch`."""
        with self.stream_batch(prompts, states, max_tokens=max_tokens, sampling=sampling, stop=stop) as stream:
            texts = [""] * len(prompts)
            for number, piece in stream:
                texts[number] += piece
            return texts

    def _continuation(
        self, prompt: list[int], state: State | None, max_tokens: int, sampling: Sampling | Sampler | None, stop: Stop
    ) -> Continuation:
        first = self._first_tokens(prompt, state, max_tokens)
        (ours,) = self._checked_states(None if state is None else [state], 1)
        if not isinstance(sampling, Sampler):
            sampling = Sampler(sampling, uncounted=self._uncounted)
        sampling.check_fits(self.shape.n_vocab)
        finder = StopFinder(stop_strings(stop))
        return Continuation(first, ours, sampling, self.tokenizer, max_tokens, finder, keep_state=state is not None)

    @cached_property
    def _uncounted(self) -> frozenset[int]:
        return uncounted_tokens(self.tokenizer)

    def _together(self, continuations: Sequence[Continuation]) -> BatchStream:
        return BatchStream(self.forward_batch, continuations, self._tokens_at_once)
