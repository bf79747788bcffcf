// Scales behind integer codes: weight = scale * (code - ZERO) + offset. backends/rwkv_edge_device/packing.py says what lies where.
// CODE_BITS: of a code.  RUN: weights that share a scale.  BLOCK: weights that share a factor of their scales; 1: these are
// float16 themselves.  OFFSET: there is one beside each scale.

// (scale, offset) of unit u; begin: the matrix.
float2 scale_of(Member m, global const uint *begin, uint row, uint u) {
    global const uint *scales = begin + m.n_out * units(m) * CODE_BITS / 4u;
    const uint run = row * (m.n_in / RUN) + u * 8u / RUN;
    if (BLOCK == 1u) {
        if (OFFSET) return vload_half2(run, (global const half *)scales);
        return (float2)(vload_half(run, (global const half *)scales), 0.0f);
    }
    const uint block = row * (m.n_in / BLOCK) + u * 8u / BLOCK, runs = m.n_out * (m.n_in / RUN);
    if (OFFSET) {
        const float2 factors = vload2(block, (global const float *)(scales + runs / 2u));
        return factors * convert_float2(vload2(run, (global const uchar *)scales));
    }
    return (float2)(((global const float *)(scales + runs / 4u))[block] * ((global const char *)scales)[run], 0.0f);
}

//if packed_dot
Unit scaled(uint2 codes, float2 scale) { return (Unit)(codes, as_uint2((float2)(scale.x, scale.y - ZERO * scale.x))); }
//else
Unit scaled(float8 codes, float2 scale) { return (codes - (float)ZERO) * scale.x + scale.y; }
//end
