"""Run RWKV-4, 5, 6 and 7 language models from the files people have, on any machine with Python.

    from rwkv_edge import Model
    model = Model("RWKV-x070-World-0.1B.pth")
    print(model.generate("User: Why is the sky blue?\\n\\nAssistant:"))
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rwkv_edge.version import __version__

if TYPE_CHECKING:
    from rwkv_edge.chat import Chat, Message, Reply
    from rwkv_edge.convert.files import quantize
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
    from rwkv_edge.model import Model, PromptWarning
    from rwkv_edge.state import State
    from rwkv_edge.text.generation import BatchStream, TextStream
    from rwkv_edge.text.sampling import Sampler, Sampling

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
    "__version__",
    "quantize",
]

# Where the names are. They are loaded when they are used: the command looks after interrupts before its modules load.
HOMES = {
    "BackendError": "errors",
    "BatchStream": "text.generation",
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
    "Sampler": "text.sampling",
    "Sampling": "text.sampling",
    "State": "state",
    "StateError": "errors",
    "StrategyError": "errors",
    "TextStream": "text.generation",
    "TokenizerError": "errors",
    "quantize": "convert.files",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
