// Weights as float16: one line a unit. Stored so and computed as float32, which needs no extension.

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    return vload_half8(row * units(m) + u, (global const half *)(weights + m.matrix));
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
