// Weights as signed bytes: two words a unit.

fn four(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(vec4(word << 24u, word << 16u, word << 8u, word)) >> vec4(24u));
}

fn weight_unit(m: Member, row: u32, u: u32) -> Eight {
    let begin = 4u * m.matrix;
    let at = begin + 2u * (row * units(m) + u);
    let scale = scale_of(m, begin + 2u * m.n_out * units(m), row, u);
    return scaled(four(weight_word(at)), four(weight_word(at + 1u)), scale);
}
