"""Run RWKV-4, 5, 6 and 7 language models from the files people have, on any machine with Python.

    from rwkv_edge import Model
    model = Model("RWKV-x070-World-0.1B.pth")
    print(model.generate("User: Why is the sky blue?\\n\\nAssistant:"))
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Where the names are. They are loaded when they are used: the command looks after interrupts before its modules load.
HOMES = {
    "BackendError": "errors",
    "BatchStream": "generation",
    "Chat": "chat",
    "InputError": "errors",
    "Message": "chat",
    "MissingExtraError": "errors",
    "Model": "model",
    "ModelFileError": "errors",
    "OutputError": "errors",
    "PromptWarning": "model",
    "Reply": "chat",
    "RwkvEdgeError": "errors",
    "Sampler": "sampling",
    "Sampling": "sampling",
    "State": "state",
    "StateError": "errors",
    "StrategyError": "errors",
    "TextStream": "generation",
    "TokenizerError": "errors",
    "quantize": "convert",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
