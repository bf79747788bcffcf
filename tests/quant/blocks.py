"""Weights for tests of encoders."""
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def normal(*shape: int, seed: int = 11) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heavy(*shape: int, seed: int = 11) -> Floats:
    """Heavy-tailed: a few weights are much larger than the rest."""
    n = normal(*shape, seed=seed)
    return n * np.abs(n)


def importance(width: int) -> Floats:
    return np.random.default_rng(12).exponential(size=width).astype(np.float32)


def one_huge() -> Floats:
    x = normal(4, 512) * np.float32(1e-3)
    x[:, 100] = [1000, -1000, 60000, -60000]
    return x


def mostly_zero() -> Floats:
    x = np.zeros((4, 512), np.float32)
    x[1, 3], x[2, 300], x[3, :] = 1, -2, np.where(np.arange(512) % 7, 0, 0.5)
    return x


def of_all_sizes() -> Floats:
    return normal(64, 512) * np.float32(10) ** np.linspace(-12, 3, 64, dtype=np.float32)[:, None]


HOSTILE = {
    "zeros": np.zeros((3, 512), np.float32),
    "minus zeros": np.full((2, 512), -0.0, np.float32),
    "a constant": np.full((2, 512), 0.731, np.float32),
    "a negative constant": np.full((2, 512), -3.3, np.float32),
    "two values": np.where(np.arange(1024).reshape(2, 512) % 3, np.float32(0.25), np.float32(-0.25)),
    "one huge": one_huge(),
    "mostly zero": mostly_zero(),
    "subnormal": normal(4, 512) * np.float32(1e-40),
    "below half precision": normal(4, 512) * np.float32(1e-8),
    "negative only": -np.abs(normal(8, 512)),
    "positive only": np.abs(normal(8, 512)) + 2,
    "of all sizes": of_all_sizes(),
    "large": normal(4, 512) * np.float32(10000),
    "whole numbers": np.rint(normal(8, 512) * 4),
}
