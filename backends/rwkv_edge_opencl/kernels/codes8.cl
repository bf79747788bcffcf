// Weights as signed bytes: two words a unit.

//if packed_dot
uint2 codes_of_inputs(char8 codes) { return as_uint2(codes); }
//end

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    global const uint *begin = (global const uint *)(weights + m.matrix);
    const float2 scale = scale_of(m, begin, row, u);
    //if packed_dot
    return scaled(vload2(row * units(m) + u, begin), scale);
    //else
    return scaled(convert_float8(vload8(row * units(m) + u, (global const char *)begin)), scale);
    //end
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
