"""RWKV-4 (arXiv:2305.13048): a weighted average per channel, no heads."""
import numpy as np

from rwkv_edge.arch.layer import Layer
from rwkv_edge.plan import Buffer


def mix(w: Layer, x: Buffer, previous: Buffer, name: str) -> Buffer:
    """x * m + previous * (1 - m)."""
    return w.p.lerp(previous, x, w.vector(f"time_mix_{name}"))


def time_mix(w: Layer, x: Buffer) -> Buffer:
    p, n_embd = w.p, w.shape.n_embd
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", n_embd))
    r = w.matmul(mix(w, x, previous, "r"), "receptance")
    k = w.matmul(mix(w, x, previous, "k"), "key")
    v = w.matmul(mix(w, x, previous, "v"), "value")
    initial = np.repeat(np.array([0.0, 0.0, -1e30], np.float32), n_embd).reshape(3, n_embd)
    slot = p.slot(f"{w.prefix}wkv", 3, n_embd, initial=initial)
    decay = -np.exp(w.vector("time_decay").astype(np.float64))
    y = p.wkv4(k, v, decay, w.vector("time_first"), slot)
    return w.matmul(p.multiply(p.activation(r, "sigmoid"), y), "output")


def channel_mix(w: Layer, x: Buffer) -> Buffer:
    p, n_embd, n_ffn = w.p, w.shape.n_embd, w.shape.n_ffn
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", n_embd))
    r = w.matmul(mix(w, x, previous, "r"), "receptance")
    k = w.matmul(mix(w, x, previous, "k"), "key", n_out=n_ffn)
    value = w.matmul(p.activation(k, "relu_squared"), "value", n_in=n_ffn)
    return p.multiply(p.activation(r, "sigmoid"), value)


def block(w: Layer, x: Buffer) -> Buffer:
    x = w.p.add(x, time_mix(w.scope("att"), w.layer_norm(x, "ln1")))
    return w.p.add(x, channel_mix(w.scope("ffn"), w.layer_norm(x, "ln2")))
