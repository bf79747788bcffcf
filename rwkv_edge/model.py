"""Model: a file opened for use. Text or tokens in, logits or text out."""
import os
import re
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
from rwkv_edge.backend import Batch, HoldsStates
from rwkv_edge.errors import InputError
from rwkv_edge.fingerprint import fingerprint
from rwkv_edge.plan import MatMul
from rwkv_edge.sampling import Sampler, Sampling, uncounted_tokens
from rwkv_edge.state import State
from rwkv_edge.strategy import compiled, parse
from rwkv_edge.tokenizer import StreamDecoder, Tokenizer, tokenizer_for
from rwkv_edge.weights import Weights, open_weights

Tokens = Sequence[int] | NDArray[np.integer[Any]]
END_OF_DOCUMENT = 0  # in every RWKV vocabulary: separates documents in training
TOKENS_PER_RUN = 512  # a longer prompt goes through in pieces, which bounds the activations' memory
PRODUCTS_PER_RUN = 200e9  # and the time until an interrupt is seen: about half a second on two fast cores


SPACE_AFTER_ASSISTANT = re.compile(r"Assistant:[^\S\n]\s*$")


class PromptWarning(UserWarning):
    """A prompt that RWKV models are known to answer badly."""


class Model:
    """An RWKV model (4, 5.0, 5.1, 5.2, 6 or 7) from a .pth, .safetensors, .gguf or rwkv.cpp .bin file, or a model directory.

    strategy: "auto", or a backend and maybe a weight format: "cpu", "cpu fp32", "webgpu fp16", "webgpu:1", "numpy fp64".
    tokenizer: a `Tokenizer`, or the path of a vocabulary; None: the file's own, or the one its vocabulary size implies.
    threads: of the CPU backend; None: the fast cores this process may use.
    sparse: of the CPU backend: single tokens skip the weights that meet a zero in the channel-mix, which takes a second copy of
        its value matrices (a quarter to a third of the file) in memory; None: where that fits.

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
        sparse: bool | None = None,
    ) -> None:
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InputError(f"threads must be an integer from 1, got {threads!r}")
        chosen = parse(strategy)
        self.weights: Weights = open_weights(path)
        self.shape: ModelShape = read_shape(self.weights)
        placed = compiled(build_plan(self.weights), chosen, threads=threads, sparse=sparse)
        self.backend_name, self.plan, self._executable = placed.name, placed.plan, placed.executable
        self._holder = self._executable if isinstance(self._executable, HoldsStates) else None
        self._weights_per_token = sum(op.weight.size for op in self.plan.ops if isinstance(op, MatMul))
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._tokenizer = tokenizer
        self._finalizer = weakref.finalize(self, self._executable.close)

    def close(self) -> None:
        """Give back threads and memory; the model cannot run afterwards."""
        with self._turn():
            self._finalizer()

    def _turn(self) -> threading.Lock:
        """Runs take turns. A forked child gets a lock of its own: nobody there would release the parent's."""
        if os.getpid() != self._pid:
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock

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
        checked = [self._check_tokens(tokens) for tokens in sequences]
        states = [self.new_state() for _ in checked] if states is None else list(states)
        if len(states) != len(checked):
            raise InputError(f"{len(checked)} sequences need as many states, got {len(states)}")
        for state in states:
            if not isinstance(state, State):
                raise InputError(f"expected a State, got {type(state).__name__}")
            state.check_fits(self.plan.slots, self.fingerprint, self._executable.state_dtype)
        if len(states) > 1 and len({state.array.ctypes.data for state in states}) != len(states):
            raise InputError("two sequences share a state; each needs one of its own (State.copy)")
        with self._turn():
            if not self._finalizer.alive:
                raise InputError(f"the model {self.weights.path} is closed")
            return self._run(checked, states, full), states

    def _check_tokens(self, tokens: Tokens) -> NDArray[np.int32]:
        if isinstance(tokens, str | bytes):
            raise InputError("expected token ids, got text; model.tokenizer.encode makes ids of it")
        # Between two steps NumPy is out of the cache and slow: the one token of a step is checked without it.
        if isinstance(tokens, list) and len(tokens) == 1 and type(tokens[0]) is int and 0 <= tokens[0] < self.shape.n_vocab:
            return np.array(tokens, np.int32)
        try:
            array = np.asarray(tokens)
        except (ValueError, OverflowError) as error:
            raise InputError(f"expected one sequence of token ids: {error}") from error
        if array.ndim != 1:
            raise InputError(f"expected one sequence of token ids, got {type(tokens).__name__} of {array.ndim} axes")
        if array.size == 0:
            raise InputError("no tokens to run: expected a sequence of at least one token id")
        if array.dtype.kind not in "iu":
            raise InputError(f"token ids must be integers of at most 64 bits, got {array.dtype}")
        if array.min() < 0 or array.max() >= self.shape.n_vocab:
            bad = int(array[(array < 0) | (array >= self.shape.n_vocab)][0])
            raise InputError(f"token id {bad} is outside the vocabulary, 0 to {self.shape.n_vocab - 1}")
        return array.astype(np.int32)

    def _run(self, sequences: list[NDArray[np.int32]], states: list[State], full: bool) -> list[NDArray[Any]]:
        """Rounds of a limited number of tokens, shared evenly by the sequences that still have some."""
        limit = min(TOKENS_PER_RUN, max(16, int(PRODUCTS_PER_RUN / self._weights_per_token)))
        logits: list[list[NDArray[Any]]] = [[] for _ in sequences]
        at = [0] * len(sequences)
        while active := [i for i, tokens in enumerate(sequences) if at[i] < len(tokens)]:
            share = max(1, limit // len(active))
            pieces = [next_piece(sequences[i][at[i] :], share) for i in active]
            outputs: list[int] = []
            ends, end = [], 0
            for i, piece in zip(active, pieces, strict=True):
                at[i] += len(piece)
                begin, end = end, end + len(piece)
                outputs += range(begin, end) if full else [end - 1] * (at[i] == len(sequences[i]))
                ends.append(len(outputs))
            batch = Batch(
                pieces[0] if len(pieces) == 1 else np.concatenate(pieces),
                [len(piece) for piece in pieces],
                [self._array_of(states[i]) for i in active],
                np.array(outputs, np.int32),
            )
            rows = self._executable.run(batch)
            for i, piece, begin, end in zip(active, pieces, [0, *ends], ends, strict=False):
                states[i].tokens_seen += len(piece)
                logits[i].append(rows[begin:end])
        return [(parts[0] if len(parts) == 1 else np.concatenate(parts)) if full else parts[-1][-1] for parts in logits]

    def _array_of(self, state: State) -> NDArray[Any]:
        """The array for a run: fetched from wherever else it is held; after the run our executable may hold it."""
        array = state.array if state.holder is self._holder else state.data
        state.holder = self._holder
        return array

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

        A state that was passed in has afterwards seen everything that was yielded.
        """
        if type(max_tokens) is not int or max_tokens < 1:
            raise InputError(f"max_tokens must be an integer from 1, got {max_tokens!r}")
        if len(tokens) == 0 and state is not None and state.tokens_seen:
            raise InputError("the prompt is empty; a state that has seen tokens needs at least one more to go on from")
        return self._continue(tokens, state, max_tokens, sampler or Sampler())

    def _continue(self, tokens: Tokens, state: State | None, max_tokens: int, sampler: Sampler) -> Iterator[int]:
        kept = state is not None
        logits, state = self.forward([END_OF_DOCUMENT] if len(tokens) == 0 else tokens, state)
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
        return self._pieces(self.encode_prompt(prompt), state, max_tokens, sampling)

    def _pieces(
        self, prompt: list[int], state: State | None, max_tokens: int, sampling: Sampling | None
    ) -> Iterator[str]:
        sampler = Sampler(sampling, uncounted=uncounted_tokens(self.tokenizer))
        tokens = self.stream_tokens(prompt, state, max_tokens=max_tokens, sampler=sampler)  # checks its arguments now
        return decoded(tokens, StreamDecoder(self.tokenizer))

    def generate(
        self,
        prompt: str | bytes,
        state: State | None = None,
        *,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> str:
        """The continuation of `prompt` as one text."""
        return "".join(self._pieces(self.encode_prompt(prompt), state, max_tokens, sampling))


def next_piece(tokens: NDArray[np.int32], limit: int) -> NDArray[np.int32]:
    """The first of as few pieces of at most `limit` tokens as there can be, all about equal: a short rest would be slow."""
    n_pieces = -(-len(tokens) // limit)
    return tokens[: -(-len(tokens) // n_pieces)]


def decoded(tokens: Iterator[int], decoder: StreamDecoder) -> Iterator[str]:
    """One piece of text a token, and at the end what was left of a broken character."""
    for token in tokens:
        yield decoder.push(token)
    if rest := decoder.finish():
        yield rest
