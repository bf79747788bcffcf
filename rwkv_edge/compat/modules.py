"""The import lines of scripts for `rwkv`, answered by this package, when asked for."""
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rwkv_edge.compat import model, pipeline, tokenizer
from rwkv_edge.compat.arrays import Array
from rwkv_edge.errors import MissingExtraError
from rwkv_edge.weights import pth

MODULES: Mapping[str, ModuleType | None] = {
    "rwkv": None,
    "rwkv.model": model,
    "rwkv.utils": pipeline,
    "rwkv.rwkv_tokenizer": tokenizer,
}


def install() -> None:
    """From now on `from rwkv.model import RWKV`, `from rwkv.utils import PIPELINE, PIPELINE_ARGS` and so on mean ours.

    Where torch is not installed, `import torch` gets a stand-in that takes settings (`torch.backends...`) and reads files
    (`torch.load`); what else a script asks of it raises MissingExtraError. Raises ImportError after `rwkv` was imported.
    """
    if "rwkv" in sys.modules and sys.modules["rwkv"].__spec__ is not None:
        raise ImportError("the rwkv package is already imported: call rwkv_edge.compat.install() before that")
    package = ModuleType("rwkv", "rwkv_edge.compat in the place of the rwkv package")
    package.__path__ = []
    for name, module in MODULES.items():
        sys.modules[name] = module or package
        if module:
            setattr(package, name.rpartition(".")[2], module)
    if "torch" not in sys.modules and find_spec("torch") is None:
        sys.modules["torch"] = TorchStandIn("torch")


class Settings:
    """Takes any setting and any call, to no effect: `torch.backends.cudnn.benchmark = True`."""

    def __getattr__(self, name: str) -> "Settings":
        if name.startswith("__"):
            raise AttributeError(name)
        return Settings()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        pass


class Nothing:
    """`with torch.no_grad():`, also as a decorator."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, function: Any) -> Any:
        return function


class TorchStandIn(ModuleType):
    """What scripts for `rwkv` use of torch beside the model."""

    backends = Settings()
    _C = Settings()
    no_grad = inference_mode = Nothing
    float = float32 = float16 = half = bfloat16 = "float32"

    @staticmethod
    def load(path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Name -> float32 array, of a .pth file. Raises ModelFileError."""
        return {name: tensor.decode().view(Array) for name, tensor in pth.read(Path(path)).tensors.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingExtraError(f"the script uses torch.{name}, which rwkv_edge does not stand in for: pip install torch")
