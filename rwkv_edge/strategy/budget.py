"""A model in a given amount of memory: as stored, else in 8 bits, else in 4, else with layers that are read at every step."""
import warnings
from dataclasses import replace

from rwkv_edge.errors import NotEnoughMemoryError
from rwkv_edge.strategy.grammar import Part, Strategy
from rwkv_edge.strategy.memory import LayerWeights, Sizes, readable
from rwkv_edge.strategy.notices import StrategyNotice
from rwkv_edge.strategy.words import WEIGHT_FORMATS

SMALLER = ("q8", "q4")  # words, the larger first


def within_budget(strategy: Strategy, sizes: Sizes) -> Strategy:
    """The same without a budget, with format and layers chosen, and told. Raises NotEnoughMemoryError: it cannot be done."""
    (part,), budget = strategy.parts, strategy.budget
    assert budget is not None
    words = [word_of(part)] if part.weight_format else [None, *SMALLER]
    for word in words:
        if sizes.of_format(format_of(word)).total <= budget:
            return _chosen(part, word, None, sizes, budget)
    word = min(words, key=lambda word: sizes.of_format(format_of(word)).total)
    for resident in range(len(sizes.layers(None)) - 1, -1, -1):
        if sizes.need(streaming(resident, format_of(word), sizes)).total <= budget:
            return _chosen(part, word, resident, sizes, budget)
    least = sizes.need(streaming(0, None, sizes)).total
    told = f"a budget of {readable(budget)} is too little: with all layers read from the file it takes {readable(least)}"
    raise NotEnoughMemoryError(told)


def streaming(resident: int, format: str | None, sizes: Sizes) -> list[LayerWeights]:
    """So many layers in a format and in memory, the others streamed."""
    return [LayerWeights(format) if i < resident else LayerWeights(None, streamed=True) for i in range(len(sizes.layers(None)))]


def suggestion(device: str, memory: int, sizes: Sizes) -> str:
    """What would fit, as a sentence to end a message with."""
    for word in SMALLER:
        if (need := sizes.of_format(format_of(word)).total) <= memory:
            return f'"{device} {word}" needs {readable(need)}'
    least = sizes.need(streaming(0, None, sizes)).total
    return f'"{device} *0+", which reads the layers from the file at every step, needs {readable(least)}'


def format_of(word: str | None) -> str | None:
    return None if word is None else WEIGHT_FORMATS[word][0]


def word_of(part: Part) -> str:
    """The word for a part's format."""
    return next(word for word, meaning in WEIGHT_FORMATS.items() if meaning == (part.weight_format, part.precision))


def _chosen(part: Part, word: str | None, resident: int | None, sizes: Sizes, budget: int) -> Strategy:
    weight_format = format_of(word)
    what = "weights as stored" if word is None else f"weights in {word}"
    if resident is None:
        need = sizes.of_format(weight_format)
        what += " fit"
        chosen = replace(part, weight_format=weight_format)
    else:
        need = sizes.need(streaming(resident, weight_format, sizes))
        n = len(sizes.layers(None))
        what += f" for {resident} layers, the other {n - resident} of {n} (with the head) are read from the file at every step"
        chosen = replace(part, weight_format=weight_format, layers=resident, streams=True)
    told = f"within {readable(budget)}: {what}, {readable(need.total)}"
    warnings.warn(told, StrategyNotice, stacklevel=6)
    return Strategy((chosen,))
