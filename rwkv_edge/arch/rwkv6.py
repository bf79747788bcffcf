"""RWKV-6 "Finch" (arXiv:2404.05892): token shift and decay depend on the data through low-rank maps."""
from rwkv_edge.arch.layer import Layer
from rwkv_edge.plan import Buffer


def time_mix(w: Layer, x: Buffer) -> Buffer:
    p, shape = w.p, w.shape
    n_embd, n_head, size = shape.n_embd, shape.n_head, shape.head_size
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", n_embd))
    w1, w2 = w.tensor("time_maa_w1", None, n_embd), w.tensor("time_maa_w2", 5, n_embd, None)
    rank = w.tensor("time_maa_w1", 5 * w2.shape[2], n_embd).shape[0] // 5
    mixed = p.lerp(x, previous, w.vector("time_maa_x"))

    def mix(name: str, index: int) -> Buffer:
        """x + (previous - x) * (time_maa_name + its own low-rank map of x)."""
        low = p.activation(p.matmul(mixed, w1[index * rank : (index + 1) * rank]), "tanh")
        return p.lerp(x, previous, p.add(p.matmul(low, w2[index]), w.vector(f"time_maa_{name}")))

    xw, xk, xv, xr, xg = (mix(name, index) for index, name in enumerate("wkvrg"))
    r, k, v = w.matmul(xr, "receptance"), w.matmul(xk, "key"), w.matmul(xv, "value")
    decay_w1 = w.tensor("time_decay_w1", None, n_embd)
    decay_w2 = w.tensor("time_decay_w2", n_embd, decay_w1.shape[0])
    low = p.activation(p.matmul(xw, decay_w1), "tanh")
    decay = p.activation(p.add(p.matmul(low, decay_w2), w.vector("time_decay")), "exp_neg_exp")
    slot = p.slot(f"{w.prefix}wkv", n_head, size, size, initial=w.initial_wkv(keys_first=True))
    y = w.group_norm(p.wkv6(r, k, v, decay, w.vector("time_faaaa", n_head, size), n_head, slot))
    gate = p.activation(w.matmul(xg, "gate"), "silu")
    return w.matmul(p.multiply(y, gate), "output")


def channel_mix(w: Layer, x: Buffer) -> Buffer:
    p, n_embd, n_ffn = w.p, w.shape.n_embd, w.shape.n_ffn
    previous = p.token_shift(x, p.slot(f"{w.prefix}shift", n_embd))
    r = w.matmul(p.lerp(x, previous, w.vector("time_maa_r")), "receptance")
    k = w.matmul(p.lerp(x, previous, w.vector("time_maa_k")), "key", n_out=n_ffn)
    value = w.matmul(p.activation(k, "relu_squared"), "value", n_in=n_ffn)
    return p.multiply(p.activation(r, "sigmoid"), value)


def block(w: Layer, x: Buffer) -> Buffer:
    x = w.p.add(x, time_mix(w.scope("att"), w.layer_norm(x, "ln1")))
    return w.p.add(x, channel_mix(w.scope("ffn"), w.layer_norm(x, "ln2")))
