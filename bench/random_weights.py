"""Random RWKV checkpoints of any shape whose activations behave, as recipes that are drawn when a tensor is written.

Every matrix has unit gain for its input, and the two matrices that end a block are scaled by what the ops before them do
to a unit normal input, so that each block adds a set share to the residual stream: nothing overflows or dies out however
deep the model, and logits have a standard deviation near 2.5. Nothing is calibrated on tokens, so a tensor needs no other.

Sparsity: the layer norm of channel mixing gets a bias vector m, a direction all tokens share. A row of the key matrix has a
small component against m, which shifts its pre-activation by an offset: normal over rows, so that neurons differ in how often
they fire, with the mean that leaves the wanted fraction of them at or below zero.
"""
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from bench.random_time_mix import time_mix
from bench.recipes import PIECE, SIGMOID_POWER, Array, Recipe, matrix, near, norm, normal, pieces, under
from bench.sizes import Sizes

OFFSET_SPREAD = 0.4  # of neurons' firing thresholds, in standard deviations of the pre-activation
SHARED_SIZE = 0.5  # of the direction that all tokens share, a channel; a random key row turns it into an offset as large


def sparse_key(sizes: Sizes, shared: Callable[[], Array], spread: float) -> Recipe:
    """The key matrix for `sizes.ffn_sparsity`. shared: the direction all tokens share; spread: of the pre-activation."""
    mean = deviation(spread) * NormalDist().inv_cdf(sizes.ffn_sparsity or 0.5)

    def draw(rng: np.random.Generator) -> Iterator[Array]:
        direction = shared() / np.square(shared()).sum()
        step = max(1, PIECE // sizes.n_embd)
        for start in range(0, sizes.n_ffn, step):
            rows = min(step, sizes.n_ffn - start)
            offset = mean + OFFSET_SPREAD * spread * rng.standard_normal((rows, 1), np.float32)
            random = rng.standard_normal((rows, sizes.n_embd), np.float32) / np.float32(math.sqrt(sizes.n_embd))
            yield random - offset.astype(np.float32) * direction

    return Recipe((sizes.n_ffn, sizes.n_embd), draw)


def deviation(spread: float) -> float:
    """Of the pre-activations over tokens and neurons."""
    return math.hypot(spread, OFFSET_SPREAD * spread, SHARED_SIZE)


def relu_squared_power(sizes: Sizes, spread: float) -> float:
    """Mean square of relu(z)^2 where z is normal with `spread`, shifted for the wanted sparsity."""
    if sizes.ffn_sparsity is None:
        return 1.5 * spread**4
    z = np.linspace(0, 8 * deviation(spread), 4001)
    density = NormalDist(-deviation(spread) * NormalDist().inv_cdf(sizes.ffn_sparsity), deviation(spread))
    return float(sum(density.pdf(v) * v**4 for v in z.tolist()) * (z[1] - z[0]))


def channel_mix(sizes: Sizes, layer: int, shared: Callable[[], Array]) -> dict[str, Recipe]:
    c, toward_end = np.arange(sizes.n_embd) / sizes.n_embd, 1 - layer / sizes.n_layer
    share = c ** (toward_end**4 if sizes.version == "7" else toward_end)
    spread = math.sqrt(float(np.mean(share**2 + (1 - share) ** 2)))  # of a mix of two independent tokens
    names = {"7": ("x_k",), "6": ("time_maa_k", "time_maa_r")}.get(sizes.version, ("time_mix_k", "time_mix_r"))
    of_previous = sizes.version in ("6", "7")
    mix = near(1 - share if of_previous else share, 1, 1, sizes.n_embd, jitter=0.02, inside=True)
    dense = sizes.ffn_sparsity is None
    out = dict.fromkeys(names, mix)
    out["key.weight"] = matrix(sizes.n_ffn, sizes.n_embd) if dense else sparse_key(sizes, shared, spread)
    power = relu_squared_power(sizes, spread)
    if sizes.version != "7":
        out["receptance.weight"] = matrix(sizes.n_embd, sizes.n_embd)
        power *= SIGMOID_POWER
    out["value.weight"] = matrix(sizes.n_embd, sizes.n_ffn, gain=sizes.block_share / math.sqrt(power))
    return out


def recipes(sizes: Sizes, seed: int) -> dict[str, Recipe]:
    """All tensors of a checkpoint, in the order of the released files."""
    out = {"emb.weight": normal(sizes.n_vocab, sizes.n_embd, std=0.3)}
    for i in range(sizes.n_layer):
        block = f"blocks.{i}"
        if i == 0:
            out |= under(f"{block}.ln0", norm(sizes.n_embd))
        out |= under(f"{block}.ln1", norm(sizes.n_embd, bias=0.1))
        out |= under(f"{block}.ln2", norm(sizes.n_embd, bias=0.1 if sizes.ffn_sparsity is None else SHARED_SIZE))
        out |= under(f"{block}.att", time_mix(sizes, i))
        bias = out[f"{block}.ln2.bias"]

        def shared(name: str = f"{block}.ln2.bias", bias: Recipe = bias) -> Array:
            return next(pieces(name, bias, seed))

        out |= under(f"{block}.ffn", channel_mix(sizes, i, shared))
    out |= under("ln_out", norm(sizes.n_embd))
    out["head.weight"] = matrix(sizes.n_vocab, sizes.n_embd, gain=2.5)
    return out
