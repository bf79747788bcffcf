"""Tensors that are not drawn yet: a shape, and numbers that come in pieces when the tensor is written."""
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Draw = Callable[[np.random.Generator], Iterator[Array]]
PIECE = 1 << 22  # numbers drawn at a time
SIGMOID_POWER = 0.293  # mean square of sigmoid of a unit normal
SILU_POWER = 0.35  # of silu


@dataclass(frozen=True)
class Recipe:
    """A tensor to be: its shape as BlinkDL stores it, and its numbers, row-major in pieces."""

    shape: tuple[int, ...]
    draw: Draw


def pieces(name: str, recipe: Recipe, seed: int) -> Iterator[Array]:
    """The tensor's numbers, flat: the same for the same name and seed, whatever was drawn before."""
    for piece in recipe.draw(np.random.default_rng([seed, zlib.crc32(name.encode())])):
        yield np.ascontiguousarray(piece, np.float32).reshape(-1)


def normal(*shape: int, std: float = 1.0, mean: float = 0.0) -> Recipe:
    def draw(rng: np.random.Generator) -> Iterator[Array]:
        left = math.prod(shape)
        while left:
            count = min(left, PIECE)
            yield rng.standard_normal(count, np.float32) * np.float32(std) + np.float32(mean)
            left -= count

    return Recipe(shape, draw)


def matrix(rows: int, width: int, gain: float = 1.0, fan_in: int | None = None) -> Recipe:
    """Unit gain: input of unit variance gives output of unit variance. fan_in: where the input is not the last axis."""
    return normal(rows, width, std=gain / math.sqrt(fan_in or width))


def near(values: NDArray[np.floating], *shape: int, jitter: float = 0.0, inside: bool = False) -> Recipe:
    """`values` with noise; inside: clipped to 0 to 1."""

    def draw(rng: np.random.Generator) -> Iterator[Array]:
        out = np.asarray(values, np.float32).reshape(-1) + np.float32(jitter) * rng.standard_normal(values.size, np.float32)
        yield out.clip(0, 1) if inside else out

    return Recipe(shape or values.shape, draw)


def norm(width: int, bias: float = 0.05) -> dict[str, Recipe]:
    return {"weight": normal(width, std=0.1, mean=1.0), "bias": normal(width, std=bias)}


def under(prefix: str, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    return {f"{prefix}.{name}": recipe for name, recipe in recipes.items()}
