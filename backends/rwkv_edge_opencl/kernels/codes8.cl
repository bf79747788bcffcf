// Weights as signed bytes: two words a unit.

float8 weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    global const uint *begin = (global const uint *)(weights + m.matrix);
    const float2 scale = scale_of(m, begin + 2u * m.n_out * units(m), row, u);
    return convert_float8(vload8(row * units(m) + u, (global const char *)begin)) * scale.x + scale.y;
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
