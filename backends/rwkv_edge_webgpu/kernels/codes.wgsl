// Scales behind integer codes: weight = scale * (code - ZERO) + offset. backends/rwkv_edge_device/packing.py says what lies where.
// CODE_BITS: of a code.  RUN: weights that share a scale.  BLOCK: weights that share a factor of their scales; 1: these are
// float16 themselves.  OFFSET: there is one beside each scale.

// (scale, offset) of unit u.
fn scale_of(m: Member, row: u32, u: u32) -> vec2<f32> {
    let begin = 4u * m.matrix + m.n_out * units(m) * CODE_BITS / 4u;
    let run = row * (m.n_in / RUN) + u * 8u / RUN;
    if (BLOCK == 1u) {
        if (OFFSET == 1u) { return unpack2x16float(weight_word(begin + run)); }
        return vec2(unpack2x16float(weight_word(begin + run / 2u))[run % 2u], 0.0);
    }
    let block = row * (m.n_in / BLOCK) + u * 8u / BLOCK;
    let runs = m.n_out * (m.n_in / RUN);
    if (OFFSET == 1u) {
        let bytes = weight_word(begin + run / 2u) >> (16u * (run % 2u));
        let at = begin + runs / 2u + 2u * block;
        return bitcast<vec2<f32>>(vec2(weight_word(at), weight_word(at + 1u))) * vec2<f32>(vec2(bytes, bytes >> 8u) & vec2(255u));
    }
    let byte = bitcast<i32>(weight_word(begin + run / 4u) << (24u - 8u * (run % 4u))) >> 24u;
    return vec2(bitcast<f32>(weight_word(begin + runs / 4u + block)) * f32(byte), 0.0);
}

//if packed_dot
fn scaled(codes: vec2<u32>, scale: vec2<f32>) -> Unit {
    return vec4(codes, bitcast<vec2<u32>>(vec2(scale.x, scale.y - f32(ZERO) * scale.x)));
}
//else
fn scaled(codes_lo: vec4<f32>, codes_hi: vec4<f32>, scale: vec2<f32>) -> Unit {
    return Unit((codes_lo - f32(ZERO)) * scale.x + scale.y, (codes_hi - f32(ZERO)) * scale.x + scale.y);
}
//end
