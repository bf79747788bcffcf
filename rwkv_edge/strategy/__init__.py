"""Strategy strings: "auto", "cpu fp32", "webgpu:1 fp16 *12 -> cpu q4_0", "cpu q8_0 *20+", "auto <1.5GB".

Which backend runs which layers of a model, in which weight format, and in how much memory.

    grammar.py    the text, read into parts
    words.py      the words for weight formats
    placement.py  which part has which layer
    devices.py    names to backends
    memory.py     how much memory a model needs
    budget.py     formats and layers chosen to fit into an amount of memory
    cut.py        a plan cut into stages
    split.py      an executable made of those of the stages
    compiling.py  all of it together
    headless.py   the same without the model's head
"""
from rwkv_edge.strategy.compiling import Compiled, compiled
from rwkv_edge.strategy.grammar import Part, Strategy, default_strategy, parse
from rwkv_edge.strategy.headless import headless
from rwkv_edge.strategy.notices import FallbackWarning, StrategyNotice
from rwkv_edge.strategy.words import WEIGHT_FORMATS

__all__ = [
    "WEIGHT_FORMATS", "Compiled", "FallbackWarning", "Part", "Strategy", "StrategyNotice", "compiled",
    "default_strategy", "headless", "parse",
]  # fmt: skip
