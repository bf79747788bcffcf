// Weights as float32: two lines a unit.

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    return vload8(row * units(m) + u, (global const float *)(weights + m.matrix));
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
