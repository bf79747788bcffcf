"""Recipes for the time mixing of each version: decays and mixes as at the start of training, matrices random."""
import math

import numpy as np
from numpy.typing import NDArray

from bench.recipes import SIGMOID_POWER, SILU_POWER, Recipe, matrix, near, norm, normal, under
from bench.sizes import HEAD_SIZE, Sizes

GATE_GAIN = 1.5
# Mean square of what the output matrix gets; version 4's average over the past has about a third of a value's variance.
POWER_BEFORE_OUTPUT = {
    "4": 0.33 * SIGMOID_POWER, "5.0": 1.0, "5.1": SILU_POWER, "5.2": SILU_POWER, "6": SILU_POWER,
    "7": 1.07 * GATE_GAIN**2 * SIGMOID_POWER,
}  # fmt: skip


def time_mix(sizes: Sizes, layer: int) -> dict[str, Recipe]:
    c, version = sizes.n_embd, sizes.version
    special = {"4": _special4, "6": _special6, "7": _special7}.get(version, _special5)
    out = special(sizes, layer)
    out["receptance.weight"] = matrix(c, c)
    out["key.weight"] = matrix(c, c, gain=1.0 if version == "4" else 0.5)
    out["value.weight"] = matrix(c, c)
    if version in ("5.1", "5.2", "6"):
        out["gate.weight"] = matrix(c, c)
    out["output.weight"] = matrix(c, c, gain=sizes.block_share / math.sqrt(POWER_BEFORE_OUTPUT[version]))
    return out if version == "4" else out | under("ln_x", norm(c))


def _ramp(n: int) -> NDArray[np.float64]:
    return np.arange(n) / max(1, n - 1)


def _depth(sizes: Sizes, layer: int) -> tuple[float, float]:
    """0 to 1 over the layers, and 1 to almost 0."""
    return layer / max(1, sizes.n_layer - 1), 1 - layer / sizes.n_layer


def _mixes(sizes: Sizes, layer: int, exponents: dict[str, float], of_previous: bool) -> dict[str, Recipe]:
    """A ramp over the channels for each name: the current token's share, or the previous one's."""
    c, (_, toward_end) = np.arange(sizes.n_embd) / sizes.n_embd, _depth(sizes, layer)
    shares = {name: c ** (exponent * toward_end) for name, exponent in exponents.items()}
    return {
        name: near(1 - share if of_previous else share, 1, 1, sizes.n_embd, jitter=0.03, inside=True)
        for name, share in shares.items()
    }


def _bonus(sizes: Sizes, depth: float) -> Recipe:
    zigzag = ((np.arange(sizes.n_embd) + 1) % 3 - 1) * 0.1
    return near(depth * (1 - _ramp(sizes.n_embd)) + zigzag, sizes.n_head, HEAD_SIZE, jitter=0.05)


def _special4(sizes: Sizes, layer: int) -> dict[str, Recipe]:
    c, (depth, _) = sizes.n_embd, _depth(sizes, layer)
    first = math.log(0.3) + ((np.arange(c) + 1) % 3 - 1) * 0.5
    out = {"time_decay": near(-5 + 8 * _ramp(c) ** (0.7 + 1.3 * depth)), "time_first": near(first, jitter=0.05)}
    return out | under_score("time_mix", _mixes(sizes, layer, {"k": 1, "v": 1, "r": 0.5}, of_previous=False))


def _special5(sizes: Sizes, layer: int) -> dict[str, Recipe]:
    depth, _ = _depth(sizes, layer)
    exponents = {"k": 1, "v": 1, "r": 0.5} | ({} if sizes.version == "5.0" else {"g": 0.5})
    out = under_score("time_mix", _mixes(sizes, layer, exponents, of_previous=False))
    if sizes.version == "5.2":
        decay = -6 + 5 * _ramp(sizes.n_embd) ** (0.7 + 1.3 * depth)
        return out | {"time_decay": near(decay, sizes.n_head, HEAD_SIZE), "time_faaaa": _bonus(sizes, depth)}
    decay = -6 + 5 * _ramp(sizes.n_head) ** (0.7 + 1.3 * depth)
    return out | {"time_decay": near(decay), "time_first": normal(sizes.n_head, std=0.1, mean=-1.0)}


def _special6(sizes: Sizes, layer: int) -> dict[str, Recipe]:
    c, (depth, _) = sizes.n_embd, _depth(sizes, layer)
    mix_rank, decay_rank = (32, 64) if c < 4096 else (64, 128)
    exponents = {"x": 1, "w": 1, "k": 1, "v": 1, "r": 0.5, "g": 0.5}
    return under_score("time_maa", _mixes(sizes, layer, exponents, of_previous=True)) | {
        "time_maa_w1": matrix(c, 5 * mix_rank, gain=0.7, fan_in=c),
        "time_maa_w2": normal(5, mix_rank, c, std=0.03),
        "time_decay": near(-6 + 5 * _ramp(c) ** (0.7 + 1.3 * depth), 1, 1, c),
        "time_decay_w1": matrix(c, decay_rank, gain=0.7, fan_in=c),
        "time_decay_w2": normal(decay_rank, c, std=0.05),
        "time_faaaa": _bonus(sizes, depth),
    }


def _special7(sizes: Sizes, layer: int) -> dict[str, Recipe]:
    c, (depth, _) = sizes.n_embd, _depth(sizes, layer)
    ramp, within_head = _ramp(c), np.arange(c) % HEAD_SIZE / ((HEAD_SIZE - 1) / 2) - 1
    zigzag = within_head * np.abs(within_head)
    exponents = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
    out = under_score("x", _mixes(sizes, layer, exponents, of_previous=True))
    gains = {"w": 0.6, "a": 0.6, "v": 0.6, "g": GATE_GAIN}
    biases = {
        "w": -5.5 + 6 * ramp ** (1 + depth**0.3) + 2.5 * zigzag,
        "a": -0.39 + 0.4 * ramp + 0.3 * zigzag,
        "v": 0.93 - 0.4 * ramp,
    }
    for name, rank in sizes.ranks7.items():
        if name in biases:
            out[f"{name}0"] = near(biases[name], 1, 1, c)
        out[f"{name}1"] = matrix(c, rank, fan_in=c)
        out[f"{name}2"] = matrix(rank, c, gain=gains[name], fan_in=rank)
    out["k_k"] = near(0.76 - 0.1 * ramp, 1, 1, c)
    out["k_a"] = near(np.full(c, 1.02), 1, 1, c)
    out["r_k"] = normal(sizes.n_head, HEAD_SIZE, std=0.1, mean=-0.04)
    return out


def under_score(prefix: str, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    return {f"{prefix}_{name}": recipe for name, recipe in recipes.items()}
