"""rwkv_edge."""
from pathlib import Path
from typing import Any

TITLE = "rwkv_edge"


def missing(path: Path) -> str | None:
    return None


def load() -> None:
    from rwkv_edge import Model  # noqa: F401


class Session:
    """options: strategy; dense: "yes": no weights are left out."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        from rwkv_edge import Model

        sparse = False if options.get("dense") == "yes" else None
        self.model = Model(path, options.get("strategy", "cpu"), threads=threads, sparse=sparse)
        self.kept: dict[str, Any] = {}

    def prompt(self, tokens: list[int]) -> None:
        _, self.state = self.model.forward(tokens)

    def step(self, token: int) -> None:
        self.model.forward([token], self.state)

    def prompt_batch(self, prompts: list[list[int]]) -> None:
        _, self.states = self.model.forward_batch(prompts)

    def step_batch(self, tokens: list[int]) -> None:
        self.model.forward_batch([[token] for token in tokens], self.states)

    def pretend_position(self, position: int) -> None:
        """Say that the sequence has seen that many tokens: there is no cache that could grow with it."""
        self.state.tokens_seen = position

    def keep(self, name: str) -> None:
        """Remember where the sequence is now."""
        self.kept[name] = self.state.copy()

    def recall(self, name: str) -> None:
        self.state = self.kept[name].copy()
