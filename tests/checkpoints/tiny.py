"""Tiny random RWKV checkpoints of every version, in BlinkDL's names, shapes and orientation.

The numbers come from raw PCG64 bits, so they are the same on every platform and NumPy release: the goldens in tests/goldens
were made from exactly these weights.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Checkpoint = dict[str, NDArray[np.float32]]
VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7")


@dataclass(frozen=True)
class Sizes:
    """Widths that are multiples of nothing larger than a Q8_0 block; head size 16, not the usual 64."""

    n_layer: int = 3
    n_embd: int = 64
    head_size: int = 16
    n_ffn: int = 160
    n_vocab: int = 97
    mix_rank: int = 6  # version 6
    decay_rank: int = 10  # version 6
    ranks: tuple[tuple[str, int], ...] = (("w", 8), ("a", 12), ("v", 4), ("g", 20))  # version 7
    layer0_v: bool = True  # version 7: files with and without the unused v0, v1, v2 of layer 0 exist

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size


class Draw:
    """Uniform numbers from raw generator bits."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def __call__(self, *shape: int, center: float = 0.0, spread: float = 1.0) -> NDArray[np.float32]:
        raw = np.asarray(self.bits.random_raw(int(np.prod(shape))), np.uint64)
        unit = (raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
        return (center + spread * unit).astype(np.float32).reshape(shape)

    def matrix(self, *shape: int, gain: float = 1.0, fan_in: int | None = None) -> NDArray[np.float32]:
        return self(*shape, spread=gain * (3.0 / (fan_in or shape[-1])) ** 0.5)


def _norm(draw: Draw, weights: Checkpoint, name: str, width: int) -> None:
    weights[f"{name}.weight"] = draw(width, center=1.0, spread=0.2)
    weights[f"{name}.bias"] = draw(width, spread=0.1)


def _att4(draw: Draw, s: Sizes, i: int) -> Checkpoint:
    c = s.n_embd
    mixes = {f"time_mix_{n}": draw(1, 1, c, center=0.5, spread=0.5) for n in "kvr"}
    return {"time_decay": draw(c, center=-1.0, spread=4.0), "time_first": draw(c, center=-1.2, spread=1.0), **mixes}


def _att5(draw: Draw, s: Sizes, i: int, mixes: str, per_channel: bool) -> Checkpoint:
    out: Checkpoint = {f"time_mix_{n}": draw(1, 1, s.n_embd, center=0.5, spread=0.5) for n in mixes}
    if per_channel:
        out["time_decay"] = draw(s.n_head, s.head_size, center=-3.0, spread=3.0)
        out["time_faaaa"] = draw(s.n_head, s.head_size, spread=0.5)
    else:
        out["time_decay"] = draw(s.n_head, center=-3.0, spread=3.0)
        out["time_first"] = draw(s.n_head, center=-1.0, spread=0.5)
    return out


def _att6(draw: Draw, s: Sizes, i: int) -> Checkpoint:
    c, mix, decay = s.n_embd, s.mix_rank, s.decay_rank
    out: Checkpoint = {f"time_maa_{n}": draw(1, 1, c, center=0.5, spread=0.5) for n in "xwkvrg"}
    out["time_maa_w1"] = draw.matrix(c, 5 * mix, fan_in=c)
    out["time_maa_w2"] = draw(5, mix, c, spread=0.1)
    out["time_decay"] = draw(1, 1, c, center=-3.0, spread=3.0)
    out["time_decay_w1"] = draw.matrix(c, decay, fan_in=c)
    out["time_decay_w2"] = draw(decay, c, spread=0.3)
    out["time_faaaa"] = draw(s.n_head, s.head_size, spread=0.5)
    return out


def _att7(draw: Draw, s: Sizes, i: int) -> Checkpoint:
    c = s.n_embd
    out: Checkpoint = {f"x_{n}": draw(1, 1, c, center=0.5, spread=0.5) for n in "rwkvag"}
    bias = {"w": (-2.0, 3.0), "a": (0.0, 1.0), "v": (0.5, 0.5)}
    for n, rank in s.ranks:
        if n == "v" and i == 0 and not s.layer0_v:
            continue
        if n in bias:
            out[f"{n}0"] = draw(1, 1, c, center=bias[n][0], spread=bias[n][1])
        out[f"{n}1"] = draw.matrix(c, rank, fan_in=c)
        out[f"{n}2"] = draw.matrix(rank, c, fan_in=rank, gain=2.0 if n == "g" else 1.0)
    out["k_k"] = draw(1, 1, c, center=0.7, spread=0.2)
    out["k_a"] = draw(1, 1, c, center=1.0, spread=0.1)
    out["r_k"] = draw(s.n_head, s.head_size, spread=0.3)
    return out


ATTENTION: dict[str, Callable[[Draw, Sizes, int], Checkpoint]] = {
    "4": _att4,
    "5.0": lambda draw, s, i: _att5(draw, s, i, "kvr", False),
    "5.1": lambda draw, s, i: _att5(draw, s, i, "kvrg", False),
    "5.2": lambda draw, s, i: _att5(draw, s, i, "kvrg", True),
    "6": _att6,
    "7": _att7,
}


def _ffn(draw: Draw, s: Sizes, version: str) -> Checkpoint:
    mixes = {"7": ("x_k",), "6": ("time_maa_k", "time_maa_r")}.get(version, ("time_mix_k", "time_mix_r"))
    out: Checkpoint = {n: draw(1, 1, s.n_embd, center=0.5, spread=0.5) for n in mixes}
    out["key.weight"] = draw.matrix(s.n_ffn, s.n_embd)
    if version != "7":
        out["receptance.weight"] = draw.matrix(s.n_embd, s.n_embd)
    out["value.weight"] = draw.matrix(s.n_embd, s.n_ffn, gain=0.5)
    return out


def tiny(version: str, seed: int = 0, **sizes: Any) -> Checkpoint:
    """A checkpoint of `version`: BlinkDL name -> float32 array whose values are exact in bfloat16."""
    s = Sizes(**sizes)
    draw = Draw(1000 * VERSIONS.index(version) + seed)
    weights: Checkpoint = {"emb.weight": draw(s.n_vocab, s.n_embd)}
    for i in range(s.n_layer):
        block = f"blocks.{i}."
        for norm in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            _norm(draw, weights, block + norm, s.n_embd)
        weights |= {f"{block}att.{name}": array for name, array in ATTENTION[version](draw, s, i).items()}
        for name in ("receptance", "key", "value", "output") + (() if version in ("4", "5.0", "7") else ("gate",)):
            weights[f"{block}att.{name}.weight"] = draw.matrix(s.n_embd, s.n_embd)
        if version != "4":
            _norm(draw, weights, f"{block}att.ln_x", s.n_embd)
        weights |= {f"{block}ffn.{name}": array for name, array in _ffn(draw, s, version).items()}
    _norm(draw, weights, "ln_out", s.n_embd)
    weights["head.weight"] = draw.matrix(s.n_vocab, s.n_embd, gain=2.0)
    return {name: round_to_bf16(array) for name, array in weights.items()}


def round_to_bf16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nearest bfloat16 (ties away from zero), still as float32."""
    bits = array.astype(np.float32).view(np.uint32) + np.uint32(0x8000)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def bf16_bits(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bfloat16 bits of an array that is exact in bfloat16."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
