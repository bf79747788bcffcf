"""RWKV-7 "Goose" (arXiv:2503.14456): a state that is edited by a generalised delta rule."""
from rwkv_edge.arch.layer import Layer
from rwkv_edge.plan import ActivationKind, Buffer

L2_EPS = 1e-12


def low_rank(w: Layer, x: Buffer, name: str, activation: ActivationKind | None = None) -> Buffer:
    """name2 @ activation(name1 @ x)."""
    first = w.tensor(f"{name}1", None, w.shape.n_embd)
    z = w.p.matmul(x, first)
    if activation:
        z = w.p.activation(z, activation)
    return w.p.matmul(z, w.tensor(f"{name}2", w.shape.n_embd, first.shape[0]))


def time_mix(w: Layer, x: Buffer, v_first: Buffer | None) -> tuple[Buffer, Buffer]:
    """Returns the block's output and the first layer's values, which later layers mix in."""
    p, n_head, size = w.p, w.shape.n_head, w.shape.head_size
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", w.shape.n_embd))
    xr, xw, xk, xv, xa, xg = (p.lerp(x, previous, w.vector(f"x_{name}")) for name in "rwkvag")
    r, k, v = w.matmul(xr, "receptance"), w.matmul(xk, "key"), w.matmul(xv, "value")
    decay = p.activation(p.add(low_rank(w, xw, "w", "tanh"), w.vector("w0")), "decay7")
    a = p.activation(p.add(low_rank(w, xa, "a"), w.vector("a0")), "sigmoid")
    gate = low_rank(w, xg, "g", "sigmoid")
    if v_first is None:
        v_first = v
    else:
        v = p.lerp(v, v_first, p.activation(p.add(low_rank(w, xv, "v"), w.vector("v0")), "sigmoid"))
    kk = p.l2_normalize(p.multiply(k, w.vector("k_k")), n_head, L2_EPS)
    k = p.lerp(k, p.multiply(k, a), w.vector("k_a"))
    slot = p.slot(f"{w.prefix}wkv", n_head, size, size, initial=w.initial_wkv(keys_first=False))
    y = w.group_norm(p.wkv7(r, decay, k, v, kk, a, n_head, slot))
    y = p.add(y, p.head_bonus(r, k, v, w.vector("r_k", n_head, size), n_head))
    return w.matmul(p.multiply(y, gate), "output"), v_first


def channel_mix(w: Layer, x: Buffer) -> Buffer:
    p, n_ffn = w.p, w.shape.n_ffn
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", w.shape.n_embd))
    k = w.matmul(p.lerp(x, previous, w.vector("x_k")), "key", n_out=n_ffn)
    return w.matmul(p.activation(k, "relu_squared"), "value", n_in=n_ffn)


def block(w: Layer, x: Buffer, v_first: Buffer | None) -> tuple[Buffer, Buffer]:
    y, v_first = time_mix(w.scope("att"), w.layer_norm(x, "ln1"), v_first)
    x = w.p.add(x, y)
    return w.p.add(x, channel_mix(w.scope("ffn"), w.layer_norm(x, "ln2"))), v_first
