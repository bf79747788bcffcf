"""A model file and a strategy become something that runs: what `Model` does once."""
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.arch import ModelShape, build_plan, read_shape
from rwkv_edge.backend import TOKENS_PER_RUN, CompileOptions, LimitsRuns
from rwkv_edge.errors import InputError
from rwkv_edge.plan import MatMul
from rwkv_edge.progress import Progress
from rwkv_edge.strategy import Compiled, Strategy, compiled, default_strategy, parse
from rwkv_edge.weights import Weights, open_weights

PRODUCTS_PER_RUN = 200e9  # at most: bounds the time until an interrupt is seen, about half a second on two fast cores


@dataclass(frozen=True, slots=True)
class Lora:
    """The parts of a model that are kept in a file of their own: see `rwkv_edge.convert.lora.with_lora`."""

    path: str | Path | None
    alpha: float | None
    init: str | Path | None

    @property
    def is_wanted(self) -> bool:
        return self.path is not None or self.alpha is not None or self.init is not None


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """weights: the file's.  compiled: what runs them.  tokens_at_once: at most, in a run."""

    weights: Weights
    shape: ModelShape
    compiled: Compiled
    tokens_at_once: int


def opened(
    path: str | Path, strategy: str | None, options: CompileOptions, lora: Lora, cache: bool, progress: Progress | None
) -> OpenedModel:
    """See `rwkv_edge.Model`, whose arguments these are."""
    if cache and lora.path is not None:
        raise InputError("a model with a LoRA is not kept: leave out cache")
    wanted = default_strategy() if strategy is None else parse(strategy)
    weights = _weights(path, wanted, options, lora, cache, progress)
    result = compiled(build_plan(weights), wanted, options, progress=progress)
    return OpenedModel(weights, read_shape(weights), result, _tokens_at_once(result))


def _weights(
    path: str | Path, strategy: Strategy, options: CompileOptions, lora: Lora, cache: bool, progress: Progress | None
) -> Weights:
    weights = open_weights(path)
    if lora.is_wanted:
        from rwkv_edge.convert.lora import with_lora  # what only few need

        weights = with_lora(weights, lora.path, lora.alpha, lora.init)
    if cache and strategy.weight_format is not None:
        from rwkv_edge.convert.model_cache import kept

        weights = kept(weights, strategy.weight_format, threads=options.threads, progress=progress)
    return weights


def _tokens_at_once(result: Compiled) -> int:
    weights_per_token = sum(op.weight.size for op in result.plan.ops if isinstance(op, MatMul))
    limit = min(TOKENS_PER_RUN, max(16, int(PRODUCTS_PER_RUN / weights_per_token)))
    return min(limit, result.executable.tokens_per_run) if isinstance(result.executable, LimitsRuns) else limit
