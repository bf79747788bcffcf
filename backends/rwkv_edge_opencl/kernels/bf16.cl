// Weights as bfloat16, the upper halves of float32: one line a unit.

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    return as_float8(convert_uint8(vload8(row * units(m) + u, (global const ushort *)(weights + m.matrix))) << 16u);
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
