// Weights as signed bytes: two words a unit.

//if packed_dot
fn codes_of_inputs(lo: vec4<i32>, hi: vec4<i32>) -> vec2<u32> { return vec2(pack4xI8(lo), pack4xI8(hi)); }
//else
fn four(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(vec4(word << 24u, word << 16u, word << 8u, word)) >> vec4(24u));
}
//end

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let begin = 4u * m.matrix;
    let at = begin + 2u * (row * units(m) + u);
    let scale = scale_of(m, begin + 2u * m.n_out * units(m), row, u);
    //if packed_dot
    return scaled(vec2(weight_word(at), weight_word(at + 1u)), scale);
    //else
    return scaled(four(weight_word(at)), four(weight_word(at + 1u)), scale);
    //end
}
