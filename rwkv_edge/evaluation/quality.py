"""How good a model is on a text, and how far one model's predictions are from another's."""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.errors import InputError
from rwkv_edge.model import Model
from rwkv_edge.progress import Progress
from rwkv_edge.text.scoring import LOGITS_PER_RUN, few_rows, log_softmax
from rwkv_edge.tokenizer import END_OF_DOCUMENT
from rwkv_edge.weights.tensor import Tensor, Weights

WEIGHTS_AT_A_TIME = 1 << 20


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts a text. nats: minus the sum of the log probabilities of its tokens."""

    tokens: int
    bytes: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        """The size the text would have if the model compressed it; comparable between vocabularies."""
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_token(self) -> float:
        return self.nats / math.log(2) / self.tokens

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.nats / self.tokens, 700.0))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model B against the reference A on the same tokens.

    kl_mean, kl_p99: of the Kullback-Leibler divergences D(A || B) after each token, in nats.
    top1_agreement: fraction of places where both find the same token likeliest.
    """

    a: Perplexity
    b: Perplexity
    kl_mean: float
    kl_p99: float
    kl_max: float
    top1_agreement: float


def perplexity(model: Model, tokens: Sequence[int], progress: Progress | None = None) -> Perplexity:
    """Of `tokens` from the start of a document, each predicted from all before it: the state carries on.

    Raises InputError for no tokens, an id out of range, tokens without text, predictions that are no numbers.
    """
    nats = 0.0
    for targets, (logits,) in _predictions([model], tokens, progress):
        for rows, wanted in few_rows(logits, targets):
            nats -= float(np.take_along_axis(log_softmax(rows), wanted[:, None], axis=1).sum())
    return _score(model, tokens, _byte_count(model, tokens), nats)


def compare(a: Model, b: Model, tokens: Sequence[int], progress: Progress | None = None) -> Comparison:
    """B's predictions against A's. Raises InputError for models with different vocabularies, and as `perplexity`."""
    if a.shape.n_vocab != b.shape.n_vocab:
        raise InputError(f"the models have {a.shape.n_vocab} and {b.shape.n_vocab} tokens: they cannot be compared")
    nats, divergences, agreed = np.zeros(2), [np.zeros(0)], 0
    for targets, (ours, theirs) in _predictions([a, b], tokens, progress):
        for (rows_a, wanted), (rows_b, _) in zip(few_rows(ours, targets), few_rows(theirs, targets), strict=True):
            p, q = log_softmax(rows_a), log_softmax(rows_b)
            nats -= [np.take_along_axis(x, wanted[:, None], axis=1).sum() for x in (p, q)]
            divergences.append((np.exp(p) * (p - q)).sum(axis=1))
            agreed += int((rows_a.argmax(axis=1) == rows_b.argmax(axis=1)).sum())
    kl, n_bytes = np.concatenate(divergences), _byte_count(a, tokens)
    score_a, score_b = (_score(model, tokens, n_bytes, float(n)) for model, n in zip((a, b), nats, strict=True))
    kl_mean, kl_p99, kl_max = float(kl.mean()), float(np.percentile(kl, 99)), float(kl.max())
    return Comparison(score_a, score_b, kl_mean, kl_p99, kl_max, agreed / len(tokens))


def tensor_errors(a: Weights, b: Weights) -> dict[str, float]:
    """Name -> root of the summed squares of the differences over that of A's weights, of all tensors both have alike."""
    return {
        name: _relative_error(tensor, b.tensors[name])
        for name, tensor in a.tensors.items()
        if name in b.tensors and b.tensors[name].shape == tensor.shape
    }


def _relative_error(a: Tensor, b: Tensor) -> float:
    difference = size = 0.0
    step = max(1, WEIGHTS_AT_A_TIME * a.shape[0] // max(1, a.size))
    for start in range(0, a.shape[0], step):
        x, y = (_rows(tensor, start, step).decode(np.float32) for tensor in (a, b))
        difference += float(np.square(x - y, dtype=np.float64).sum())
        size += float(np.square(x, dtype=np.float64).sum())
    return math.sqrt(difference / size) if size else math.sqrt(difference)


def _rows(tensor: Tensor, start: int, step: int) -> Tensor:
    return tensor[start : start + step] if len(tensor.shape) > 1 else tensor


def _predictions(
    models: Sequence[Model], tokens: Sequence[int], progress: Progress | None
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[Any]]]]:
    """Some tokens at a time, with the logits [T, n_vocab] that each model gave for them beforehand."""
    if len(tokens) == 0:
        raise InputError("no tokens: the text is empty")
    inputs = [END_OF_DOCUMENT, *tokens[:-1]]
    states = [model.new_state() for model in models]
    for start in range(0, len(tokens), LOGITS_PER_RUN):
        piece = inputs[start : start + LOGITS_PER_RUN]
        logits = [model.forward(piece, state, full=True)[0] for model, state in zip(models, states, strict=True)]
        yield np.asarray(tokens[start : start + LOGITS_PER_RUN], np.int64), logits
        if progress:
            progress(start + len(piece), len(tokens))


def _byte_count(model: Model, tokens: Sequence[int]) -> int:
    count = len(model.tokenizer.decode_bytes(tokens))
    if not count:
        raise InputError("there is no text to predict: all tokens are ends of documents")
    return count


def _score(model: Model, tokens: Sequence[int], n_bytes: int, nats: float) -> Perplexity:
    if not math.isfinite(nats):
        raise InputError(f"{model.weights.path}: predictions hold NaN or infinity: its weights may be damaged")
    return Perplexity(len(tokens), n_bytes, nats)
