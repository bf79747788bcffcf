// Weights as four bits from 0 to 15: one word a unit.

float8 weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    global const uint *begin = (global const uint *)(weights + m.matrix);
    const float2 scale = scale_of(m, begin + m.n_out * units(m), row, u);
    const uint8 codes = (uint8)begin[row * units(m) + u] >> (uint8)(0u, 4u, 8u, 12u, 16u, 20u, 24u, 28u) & 15u;
    return convert_float8(codes) * scale.x + scale.y;
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
