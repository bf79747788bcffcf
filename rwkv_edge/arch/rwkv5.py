"""RWKV-5 "Eagle" (arXiv:2404.05892): a matrix state per head; 5.0 without gate, 5.1 with, 5.2 with a decay per channel."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_edge.arch.layer import Layer
from rwkv_edge.arch.rwkv4 import channel_mix, mix
from rwkv_edge.plan import Buffer


def per_channel(w: Layer, name: str) -> NDArray[Any]:
    """[C] float64: 5.0 and 5.1 hold one number a head, 5.2 one a channel."""
    n_head, size = w.shape.n_head, w.shape.head_size
    if w.shape.version == "5.2":
        return w.vector(name, n_head, size).astype(np.float64)
    return np.repeat(w.vector(name, n_head).astype(np.float64), size)


def time_mix(w: Layer, x: Buffer) -> Buffer:
    p, shape = w.p, w.shape
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", shape.n_embd))
    r = w.matmul(mix(w, x, previous, "r"), "receptance")
    k = w.matmul(mix(w, x, previous, "k"), "key")
    v = w.matmul(mix(w, x, previous, "v"), "value")
    decay = np.exp(-np.exp(per_channel(w, "time_decay")))
    bonus = per_channel(w, "time_faaaa") if shape.version == "5.2" else np.exp(per_channel(w, "time_first"))
    slot = p.slot(f"{w.prefix}wkv", shape.n_head, shape.head_size, shape.head_size, initial=w.initial_wkv(keys_first=True))
    y = w.group_norm(p.wkv6(r, k, v, decay, bonus, shape.n_head, slot))
    if shape.version != "5.0":
        y = p.multiply(y, p.activation(w.matmul(mix(w, x, previous, "g"), "gate"), "silu"))
    return w.matmul(y, "output")


def block(w: Layer, x: Buffer) -> Buffer:
    x = w.p.add(x, time_mix(w.scope("att"), w.layer_norm(x, "ln1")))
    return w.p.add(x, channel_mix(w.scope("ffn"), w.layer_norm(x, "ln2")))
