// Weights as four bits from 0 to 15: one word a unit.

fn weight_unit(m: Member, row: u32, u: u32) -> Eight {
    let begin = 4u * m.matrix;
    let codes = weight_word(begin + row * units(m) + u);
    let scale = scale_of(m, begin + m.n_out * units(m), row, u);
    let lo = vec4<f32>((vec4(codes) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u));
    let hi = vec4<f32>((vec4(codes) >> vec4(16u, 20u, 24u, 28u)) & vec4(15u));
    return scaled(lo, hi, scale);
}
