"""exp and its relatives in float32, written so that loops over them become vector instructions; the same bits on every CPU."""
import math

import numpy as np

from rwkv_edge.plan import DECAY7_SCALE
from rwkv_edge_cpu.code.intrinsics import scale_by_power
from rwkv_edge_cpu.code.jit import inlined

F = np.float32
ZERO, ONE, TWO = F(0), F(1), F(2)
LOWEST, HIGHEST = F(-104), F(89)  # exp is 0 below and inf above
LOG2_E = F(math.log2(math.e))
LN2_HIGH = F(355 / 512)  # few bits: n * LN2_HIGH is exact
LN2_LOW = F(math.log(2) - 355 / 512)
ROUNDER = F(1.5 * 2**23)  # x + ROUNDER has no room for a fraction: this rounds x
C2, C3, C4, C5, C6, C7 = (F(1 / math.factorial(i)) for i in range(2, 8))
SMALL = F(0.125)
DECAY7 = F(DECAY7_SCALE)


@inlined
def exp(x):
    """Within 2 units in the last place; 0, inf and NaN where they belong."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = x - n * LN2_HIGH
    r = r - n * LN2_LOW
    # Taylor's series: |r| < 0.35, so the next term is below 6e-9.
    p = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))))
    return scale_by_power(p, shifted)


@inlined
def sigmoid(x):
    small = exp(-abs(x))  # cannot overflow
    return (ONE if x >= ZERO else small) / (ONE + small)


@inlined
def tanh(x):
    size = abs(x)
    z = TWO * size
    e = exp(-z)
    large = (ONE - e) / (ONE + e)
    # Near zero 1 - e loses digits; expm1(z) / (expm1(z) + 2) does not.
    z = z if z < TWO * SMALL else TWO * SMALL
    m = z * (ONE + z * (C2 + z * (C3 + z * (C4 + z * (C5 + z * C6)))))
    y = m / (m + TWO) if size < SMALL else large
    return -y if x < ZERO else y


@inlined
def silu(x):
    return x * sigmoid(x)


@inlined
def relu_squared(x):
    return ZERO if x <= ZERO else x * x  # NaN is not <= 0


@inlined
def exp_neg_exp(x):
    return exp(-exp(x))


@inlined
def decay7(x):
    return exp(DECAY7 * sigmoid(x))


@inlined
def larger(x, y):
    """The maximum; NaN if either is."""
    return x if x > y or x != x else y
