// Scales behind integer codes: weight = scale * code + offset.
// RUN: weights that share a scale.  HALF: scales are float16.  OFFSET: there is one beside each scale.

// (scale, offset) of unit u; codes_end: the word behind the matrix's codes.
fn scale_of(m: Member, codes_end: u32, row: u32, u: u32) -> vec2<f32> {
    let run = row * (m.n_in / RUN) + u * 8u / RUN;
    if (HALF == 1u && OFFSET == 1u) { return unpack2x16float(weight_word(codes_end + run)); }
    if (HALF == 1u) { return vec2(unpack2x16float(weight_word(codes_end + run / 2u))[run % 2u], 0.0); }
    if (OFFSET == 1u) {
        return vec2(bitcast<f32>(weight_word(codes_end + 2u * run)), bitcast<f32>(weight_word(codes_end + 2u * run + 1u)));
    }
    return vec2(bitcast<f32>(weight_word(codes_end + run)), 0.0);
}

//if packed_dot
fn scaled(codes: vec2<u32>, scale: vec2<f32>) -> Unit { return vec4(codes, bitcast<vec2<u32>>(scale)); }
//else
fn scaled(codes_lo: vec4<f32>, codes_hi: vec4<f32>, scale: vec2<f32>) -> Unit {
    return Unit(codes_lo * scale.x + scale.y, codes_hi * scale.x + scale.y);
}
//end
