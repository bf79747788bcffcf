// Scales behind integer codes: weight = scale * code + offset.
// RUN: weights that share a scale.  HALF: scales are float16.  OFFSET: there is one beside each scale.

// (scale, offset) of unit u; scales: what stands behind the matrix's codes.
float2 scale_of(Member m, global const uint *scales, uint row, uint u) {
    const uint run = row * (m.n_in / RUN) + u * 8u / RUN;
    if (HALF && OFFSET) return vload_half2(run, (global const half *)scales);
    if (HALF) return (float2)(vload_half(run, (global const half *)scales), 0.0f);
    if (OFFSET) return vload2(run, (global const float *)scales);
    return (float2)(((global const float *)scales)[run], 0.0f);
}

//if packed_dot
Unit scaled(uint2 codes, float2 scale) { return (Unit)(codes, as_uint2(scale)); }
//else
Unit scaled(float8 codes, float2 scale) { return codes * scale.x + scale.y; }
//end
