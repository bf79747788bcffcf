"""llama.cpp through the llama-cpp-python package: GGUF files."""
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TITLE = "llama.cpp"
CONTEXT = 4096  # tokens after which llama-cpp-python's own buffers end
BATCH = 512


def missing(path: Path) -> str | None:
    if path.suffix != ".gguf":
        return "reads GGUF files only"
    return None if find_spec("llama_cpp") else "is not installed (pip install llama-cpp-python)"


def load() -> None:
    import llama_cpp  # noqa: F401


class Session:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        from llama_cpp import Llama

        sizes = {"n_ctx": CONTEXT, "n_batch": BATCH, "n_ubatch": BATCH}
        self.model = Llama(path, n_threads=threads, n_threads_batch=threads, verbose=False, **sizes)

    def prompt(self, tokens: list[int]) -> None:
        self.model.reset()
        self.model.eval(tokens)

    def step(self, token: int) -> None:
        self.model.eval([token])
