"""The official `rwkv` package with PyTorch: .pth files."""
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TITLE = "rwkv package"


def missing(path: Path) -> str | None:
    if path.suffix != ".pth":
        return "reads .pth files only"
    absent = [name for name in ("torch", "rwkv") if not find_spec(name)]
    return f"is not installed (pip install {' '.join(absent)})" if absent else None


def load() -> None:
    """The package is imported by Session: it reads the model's version from the environment while it is imported."""
    import torch  # noqa: F401


class Session:
    """options: version, official_strategy."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "1" if options["version"] == "7" else "0"}
        from rwkv.model import RWKV

        self.model = RWKV(model=path.removesuffix(".pth"), strategy=options.get("official_strategy", "cpu fp32"))

    def prompt(self, tokens: list[int]) -> None:
        _, self.state = self.model.forward(tokens, None)

    def step(self, token: int) -> None:
        _, self.state = self.model.forward([token], self.state)
