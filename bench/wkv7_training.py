"""RWKV-7's recurrence as a torch operator with a gradient, for training on a CPU: Numba kernels, a head of a lane at a time.

Step by step, and yet about six times faster on two cores than the chunked matrix form in torch (27 against 160 ms a layer
for 4,096 tokens, forward and backward), because a head's state stays in the first-level cache.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange
from torch import Tensor

V7_DECAY = -0.606531  # log w = V7_DECAY * sigmoid(.), as in the released inference code
HEAD_SIZE = 64  # fixed, so that the kernels are compiled for it
SEGMENT = 32  # the backward kernel starts from a saved state every so many tokens

# The inputs r, w, k, v, a, b of a head lie side by side: x [B, T, H, 6, N].  State: [B, H, key, value].


def wkv7_recurrent(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The yardstick of the kernels below: S = diag(w) S + b (a S) + k v, out = r S."""
    out = []
    for token in x.unbind(1):
        r, w, k, v, a, b = token.unbind(2)
        s = w[..., None] * s + b[..., None] * (a[:, :, None] @ s) + k[..., None] * v[:, :, None]
        out.append((r[:, :, None] @ s).squeeze(2))
    return torch.stack(out, 1), s


@njit(fastmath=True, error_model="numpy", inline="always")
def wkv7_step(s, x, sa, out):
    """One token of one head, state changed in place; four rows at a time keep sums in registers longer."""
    r, w, k, v, a, b = x[0], x[1], x[2], x[3], x[4], x[5]
    sa[:] = 0
    out[:] = 0
    for j in range(0, HEAD_SIZE, 4):
        a0, a1, a2, a3 = a[j], a[j + 1], a[j + 2], a[j + 3]
        for c in range(HEAD_SIZE):
            sa[c] += a0 * s[j, c] + a1 * s[j + 1, c] + a2 * s[j + 2, c] + a3 * s[j + 3, c]
    for j in range(HEAD_SIZE):
        wj, bj, kj = w[j], b[j], k[j]
        for c in range(HEAD_SIZE):
            s[j, c] = wj * s[j, c] + bj * sa[c] + kj * v[c]
    for j in range(0, HEAD_SIZE, 4):
        r0, r1, r2, r3 = r[j], r[j + 1], r[j + 2], r[j + 3]
        for c in range(HEAD_SIZE):
            out[c] += r0 * s[j, c] + r1 * s[j + 1, c] + r2 * s[j + 2, c] + r3 * s[j + 3, c]


@njit(fastmath=True, error_model="numpy", inline="always")
def wkv7_step_back(before, s, ds, dout, x, sa, dx, dsa):
    """Gradients of one step from the states around it; ds is the gradient of s and becomes that of before.

    The inner loops are short and apart, else the compiler finds too many arrays that may overlap to vectorise.
    """
    r, w, k, v, a, b = x[0], x[1], x[2], x[3], x[4], x[5]
    dr, dw, dk, dv, da, db = dx[0], dx[1], dx[2], dx[3], dx[4], dx[5]
    dv[:] = 0
    dsa[:] = 0
    zero = s.dtype.type(0)
    for j in range(HEAD_SIZE):
        rj, xr, xw, xk, xb = r[j], zero, zero, zero, zero
        for c in range(HEAD_SIZE):
            ds[j, c] += rj * dout[c]
        for c in range(HEAD_SIZE):
            d = ds[j, c]
            xr += s[j, c] * dout[c]
            xw += d * before[j, c]
            xk += d * v[c]
            xb += d * sa[c]
        dr[j], dw[j], dk[j], db[j] = xr, xw, xk, xb
    for j in range(0, HEAD_SIZE, 4):
        k0, k1, k2, k3 = k[j], k[j + 1], k[j + 2], k[j + 3]
        b0, b1, b2, b3 = b[j], b[j + 1], b[j + 2], b[j + 3]
        for c in range(HEAD_SIZE):
            dv[c] += k0 * ds[j, c] + k1 * ds[j + 1, c] + k2 * ds[j + 2, c] + k3 * ds[j + 3, c]
        for c in range(HEAD_SIZE):
            dsa[c] += b0 * ds[j, c] + b1 * ds[j + 1, c] + b2 * ds[j + 2, c] + b3 * ds[j + 3, c]
    for j in range(HEAD_SIZE):
        wj, aj, xa = w[j], a[j], zero
        for c in range(HEAD_SIZE):
            xa += before[j, c] * dsa[c]
        for c in range(HEAD_SIZE):
            ds[j, c] = wj * ds[j, c] + aj * dsa[c]
        da[j] = xa


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def wkv7_forward_kernel(x, s0, out, saved):
    batch, length, n_head, _, n = x.shape
    for lane in prange(batch * n_head):
        i, h = lane // n_head, lane % n_head
        s, sa = s0[i, h].copy(), np.empty(n, x.dtype)
        for t in range(length):
            if t % SEGMENT == 0:
                saved[i, h, t // SEGMENT] = s
            wkv7_step(s, x[i, t, h], sa, out[i, t, h])
        saved[i, h, -1] = s


@njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def wkv7_backward_kernel(x, saved, dout, dx):
    batch, length, n_head, _, n = x.shape
    for lane in prange(batch * n_head):
        i, h = lane // n_head, lane % n_head
        ds, out, dsa = np.zeros((n, n), x.dtype), np.empty(n, x.dtype), np.empty(n, x.dtype)
        s, sa = np.empty((SEGMENT + 1, n, n), x.dtype), np.empty((SEGMENT, n), x.dtype)
        for start in range((length - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            stop = min(length, start + SEGMENT)
            s[0] = saved[i, h, start // SEGMENT]
            for t in range(start, stop):
                q = t - start
                s[q + 1] = s[q]
                wkv7_step(s[q + 1], x[i, t, h], sa[q], out)
            for t in range(stop - 1, start - 1, -1):
                q = t - start
                wkv7_step_back(s[q], s[q + 1], ds, dout[i, t, h], x[i, t, h], sa[q], dx[i, t, h], dsa)


@torch.library.custom_op("rwkv_demo::wkv7", mutates_args=())
def wkv7(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The output [B, T, H, N] and the states before each segment, the last state at the end.

    An operator of its own, so that torch.compile fuses what lies around it.  It gives no gradient to s.
    """
    out, saved = wkv7_shapes(x, s)
    wkv7_forward_kernel(*(z.detach().contiguous().numpy() for z in (x, s, out, saved)))
    return out, saved


@wkv7.register_fake
def wkv7_shapes(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, n_head, _, n = x.shape
    return x.new_empty(batch, length, n_head, n), s.new_empty(batch, n_head, (length - 1) // SEGMENT + 2, n, n)


@torch.library.custom_op("rwkv_demo::wkv7_back", mutates_args=())
def wkv7_back(x: Tensor, saved: Tensor, dout: Tensor) -> Tensor:
    dx = x.new_empty(x.shape)
    wkv7_backward_kernel(*(z.detach().contiguous().numpy() for z in (x, saved, dout, dx)))
    return dx


wkv7_back.register_fake(lambda x, saved, dout: x.new_empty(x.shape))
wkv7.register_autograd(
    lambda ctx, dout, _: (wkv7_back(*ctx.saved_tensors, dout), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0], output[1]),
)


def check_kernels() -> None:
    """Output, last state and gradients against autograd through the step-by-step form, in float64."""
    r, k, v, g, kk, rate, iclr = torch.randn(7, 2, 75, 2, HEAD_SIZE, dtype=torch.float64)  # 75: two segments and a part
    kk, w = F.normalize(kk, dim=-1), torch.exp(V7_DECAY * torch.sigmoid(rate))
    x = torch.stack((r, w, k, v, -kk, kk * torch.sigmoid(iclr)), 3).requires_grad_()
    s = torch.randn(2, 2, HEAD_SIZE, HEAD_SIZE, dtype=torch.float64)
    (out, saved), (want, last) = wkv7(x, s), wkv7_recurrent(x, s)
    gradient, wanted = (torch.autograd.grad((y * g).sum(), x)[0] for y in (out, want))
    for name, got, right in (("output", out, want), ("state", saved[:, :, -1], last), ("gradient", gradient, wanted)):
        error = float((got - right).detach().abs().max())
        print(f"{name:8} largest difference {error:.1e}")
        assert error < 1e-10
