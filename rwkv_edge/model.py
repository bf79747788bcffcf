"""Model: a file opened for use. Text or tokens in, logits or text out."""
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.arch import ModelShape, build_plan, read_shape
from rwkv_edge.backend import Batch
from rwkv_edge.errors import InputError
from rwkv_edge.fingerprint import fingerprint
from rwkv_edge.sampling import Sampler, Sampling, uncounted_tokens
from rwkv_edge.state import State
from rwkv_edge.strategy import choose_backend, parse, place
from rwkv_edge.tokenizer import StreamDecoder, Tokenizer, tokenizer_for
from rwkv_edge.weights import Weights, open_weights

Tokens = Sequence[int] | NDArray[np.integer[Any]]
END_OF_DOCUMENT = 0  # in every RWKV vocabulary: separates documents in training
TOKENS_PER_RUN = 512  # a longer prompt goes through in pieces, which bounds the activations' memory


class PromptWarning(UserWarning):
    """A prompt that RWKV models are known to answer badly."""


class Model:
    """An RWKV model (4, 5.0, 5.1, 5.2, 6 or 7) from a .pth, .safetensors, .gguf or rwkv.cpp .bin file, or a model directory.

    strategy: "auto", or a backend and maybe a weight format: "cpu", "cpu fp32", "numpy fp32", "numpy fp64".
    tokenizer: a `Tokenizer`, or the path of a vocabulary; None: the file's own, or the one its vocabulary size implies.
    threads: of the CPU backend; None: all cores this process may use.

    Sequences are independent: each has a `State`, and the model may be shared by threads (their runs take turns). A state
    that is passed in is advanced in place, as in the official package; `State.copy` makes a branch.

    Raises ModelFileError for a file that is damaged or holds something else, StrategyError, BackendError.
    """

    def __init__(
        self,
        path: str | Path,
        strategy: str = "auto",
        *,
        tokenizer: Tokenizer | str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        chosen = parse(strategy)
        self.weights: Weights = open_weights(Path(path))
        self.shape: ModelShape = read_shape(self.weights)
        backend = choose_backend(chosen)
        self.backend_name = backend.name
        self.plan = place(build_plan(self.weights), chosen, backend)
        self._executable = backend.compile(self.plan, precision=chosen.precision, threads=threads)
        self._lock = threading.Lock()
        self._tokenizer = tokenizer
        self._finalizer = weakref.finalize(self, self._executable.close)

    def close(self) -> None:
        """Give back threads and memory; the model cannot run afterwards."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @cached_property
    def fingerprint(self) -> str:
        """Names the model whatever file it came from; a state remembers it."""
        return fingerprint(self.weights)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Found on first use, so that a model without a known vocabulary still runs on token ids. Raises TokenizerError."""
        if self._tokenizer is not None and not isinstance(self._tokenizer, str | Path):
            return self._tokenizer
        path = self._tokenizer or self.weights.metadata.get("vocabulary_file")
        return tokenizer_for(self.shape.n_vocab, gguf_tokens=self.weights.hints.vocabulary, path=path)

    def new_state(self) -> State:
        """The state of a sequence that has seen nothing."""
        return State.initial(self.plan.slots, self._executable.state_dtype, self.fingerprint)

    def forward(
        self, tokens: Tokens, state: State | None = None, full: bool = False
    ) -> tuple[NDArray[Any], State]:
        """Feed tokens; returns (logits, state).

        logits: float32 [n_vocab] after the last token, or [T, n_vocab] after each one when `full`.
        state: the one passed in, advanced in place, or a new one. Raises InputError: no tokens, an id out of range.
        """
        logits, states = self.forward_batch([tokens], None if state is None else [state], full)
        return logits[0], states[0]

    def forward_batch(
        self, sequences: Sequence[Tokens], states: Sequence[State] | None = None, full: bool = False
    ) -> tuple[list[NDArray[Any]], list[State]]:
        """`forward` for several sequences of any lengths in one go; each needs a state of its own."""
        checked = [self._check_tokens(tokens) for tokens in sequences]
        states = [self.new_state() for _ in checked] if states is None else list(states)
        if len(states) != len(checked) or len({id(state) for state in states}) != len(states):
            raise InputError(f"{len(checked)} sequences need as many different states, got {len(states)}")
        for state in states:
            state.check_fits(self.plan.slots, self.fingerprint, self._executable.state_dtype)
        with self._lock:
            if not self._finalizer.alive:
                raise InputError(f"the model {self.weights.path} is closed")
            return self._run(checked, states, full), states

    def _check_tokens(self, tokens: Tokens) -> NDArray[np.int32]:
        array = np.asarray(tokens)
        if array.ndim != 1 or array.size == 0:
            raise InputError("no tokens to run: expected a sequence of at least one token id")
        if array.dtype.kind not in "iu":
            raise InputError(f"token ids must be integers, got {array.dtype}")
        if array.min() < 0 or array.max() >= self.shape.n_vocab:
            bad = int(array[(array < 0) | (array >= self.shape.n_vocab)][0])
            raise InputError(f"token id {bad} is outside the vocabulary, 0 to {self.shape.n_vocab - 1}")
        return array.astype(np.int32)

    def _run(self, sequences: list[NDArray[np.int32]], states: list[State], full: bool) -> list[NDArray[Any]]:
        """Rounds of at most TOKENS_PER_RUN tokens, shared evenly by the sequences that still have some."""
        logits: list[list[NDArray[Any]]] = [[] for _ in sequences]
        at = [0] * len(sequences)
        while active := [i for i, tokens in enumerate(sequences) if at[i] < len(tokens)]:
            share = max(1, TOKENS_PER_RUN // len(active))
            pieces = [sequences[i][at[i] : at[i] + share] for i in active]
            ends = np.cumsum([len(piece) for piece in pieces])
            wanted: list[NDArray[Any]] = []
            for i, piece, end in zip(active, pieces, ends, strict=True):
                at[i] += len(piece)
                first = end - len(piece) if full else end - 1 if at[i] == len(sequences[i]) else end
                wanted.append(np.arange(first, end, dtype=np.int32))
            batch = Batch(
                np.concatenate(pieces), [len(p) for p in pieces], [states[i].data for i in active], np.concatenate(wanted)
            )
            rows = np.split(self._executable.run(batch), np.cumsum([len(w) for w in wanted])[:-1])
            for i, piece, part in zip(active, pieces, rows, strict=True):
                states[i].tokens_seen += len(piece)
                logits[i].append(part)
        return [np.concatenate(parts) if full else parts[-1][-1] for parts in logits]

    def encode_prompt(self, prompt: str | bytes) -> list[int]:
        """Token ids of a prompt; warns (PromptWarning) where the model cards say that the answer will suffer."""
        trailing = prompt[len(prompt.rstrip()) :]
        ending = prompt.rstrip()[-10:]
        if trailing in (" ", b" ") and ending in ("Assistant:", b"Assistant:"):
            message = 'the prompt ends in "Assistant: "; leave the space out, these models expect to write it themselves'
            warnings.warn(message, PromptWarning, stacklevel=2)
        return self.tokenizer.encode(prompt)

    def stream_tokens(
        self, tokens: Tokens, state: State | None = None, *, max_tokens: int = 256, sampler: Sampler | None = None
    ) -> Iterator[int]:
        """Continue `tokens` (none, for a new state: from the start of a document) until the end of the document or max_tokens.

        A state that was passed in has afterwards seen everything that was yielded.
        """
        if max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
        sampler = sampler or Sampler(Sampling())
        kept = state is not None
        if len(tokens) == 0:
            if state is not None and state.tokens_seen:
                raise InputError("the prompt is empty; a state that has seen tokens needs at least one more to go on from")
            tokens = [END_OF_DOCUMENT]
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
        sampling: Sampling | None = None,
    ) -> Iterator[str]:
        """The continuation of `prompt` as pieces of text, one a token ("" while a character is not whole yet)."""
        tokens = self.encode_prompt(prompt)
        sampler = Sampler(sampling or Sampling(), uncounted=uncounted_tokens(self.tokenizer))
        decoder = StreamDecoder(self.tokenizer)
        for token in self.stream_tokens(tokens, state, max_tokens=max_tokens, sampler=sampler):
            yield decoder.push(token)
        if rest := decoder.finish():
            yield rest

    def generate(
        self,
        prompt: str | bytes,
        state: State | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> str:
        """The continuation of `prompt` as one text."""
        return "".join(self.stream(prompt, state, max_tokens=max_tokens, sampling=sampling))
