// Weights as 4, 5 or 6 bits: one word a unit has the low four of each, a plane behind all of these the others.

#define HIGH (CODE_BITS > 4u ? CODE_BITS - 4u : 1u) // bits in the plane, if there is one
#define TOGETHER (4u / HIGH)                        // units that share a word of it

//if packed_dot
uint2 codes_of_inputs(char8 codes) { return (uint2)(as_uint(codes.even), as_uint(codes.odd)); }
//end

// Bytes: codes 0, 2, 4, 6 and 1, 3, 5, 7, which masks take out.
uint2 codes_of(global const uint *begin, Member m, uint row, uint u) {
    const uint unit = row * units(m) + u, low = begin[unit];
    const uint2 codes = (uint2)(low, low >> 4u) & 0x0f0f0f0fu;
    if (CODE_BITS == 4u) return codes;
    const uint high = begin[m.n_out * units(m) + unit / TOGETHER] >> 2u * HIGH * (u % TOGETHER);
    return codes | ((uint2)(high, high >> HIGH) & ((1u << HIGH) - 1u) * 0x01010101u) << 4u;
}

Unit weight_unit(global const uint4 *weights, Member m, uint row, uint u) {
    global const uint *begin = (global const uint *)(weights + m.matrix);
    const uint2 codes = codes_of(begin, m, row, u);
    const float2 scale = scale_of(m, begin, row, u);
    //if packed_dot
    return scaled(codes, scale);
    //else
    float8 numbers;
    numbers.even = convert_float4(as_uchar4(codes.x));
    numbers.odd = convert_float4(as_uchar4(codes.y));
    return scaled(numbers, scale);
    //end
}
#define weight_unit(m, row, u) weight_unit(weights, m, row, u)
