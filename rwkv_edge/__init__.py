"""Run RWKV-4, 5, 6 and 7 language models from the files people have, on any machine with Python.

    from rwkv_edge import Model
    model = Model("RWKV-x070-World-0.1B.pth")
    print(model.generate("User: Why is the sky blue?\\n\\nAssistant:"))
"""
from rwkv_edge.chat import Chat, Message, Reply
from rwkv_edge.convert import quantize
from rwkv_edge.errors import (
    BackendError,
    InputError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    RwkvEdgeError,
    StateError,
    StrategyError,
    TokenizerError,
)
from rwkv_edge.generation import BatchStream, TextStream
from rwkv_edge.model import Model, PromptWarning
from rwkv_edge.sampling import Sampler, Sampling
from rwkv_edge.state import State

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "BatchStream",
    "Chat",
    "InputError",
    "Message",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "OutputError",
    "PromptWarning",
    "Reply",
    "RwkvEdgeError",
    "Sampler",
    "Sampling",
    "State",
    "StateError",
    "StrategyError",
    "TextStream",
    "TokenizerError",
    "quantize",
]
