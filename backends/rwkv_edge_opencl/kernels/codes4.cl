// Weights as four bits from 0 to 15: one word a unit.

//if packed_dot
// Bytes hold codes 0, 2, 4, 6 and 1, 3, 5, 7: a mask takes them out.
uint2 codes_of_inputs(char8 codes) { return (uint2)(as_uint(codes.even), as_uint(codes.odd)); }
//end

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    global const uint *begin = (global const uint *)(weights + m.matrix);
    const float2 scale = scale_of(m, begin + m.n_out * units(m), row, u);
    const uint codes = begin[row * units(m) + u];
    //if packed_dot
    return scaled((uint2)(codes, codes >> 4u) & 0x0f0f0f0fu, scale);
    //else
    return scaled(convert_float8((uint8)codes >> (uint8)(0u, 4u, 8u, 12u, 16u, 20u, 24u, 28u) & 15u), scale);
    //end
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
