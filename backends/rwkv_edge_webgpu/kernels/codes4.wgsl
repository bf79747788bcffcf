// Weights as four bits from 0 to 15: one word a unit.

@group(0) @binding(2) var<storage, read> weights: array<u32>;

fn weight_word(i: u32) -> u32 { return weights[i]; }

//if packed_dot
// Bytes hold codes 0, 2, 4, 6 and 1, 3, 5, 7: a mask takes them out.
fn codes_of_inputs(lo: vec4<i32>, hi: vec4<i32>) -> vec2<u32> {
    return vec2(pack4xI8(vec4(lo.xz, hi.xz)), pack4xI8(vec4(lo.yw, hi.yw)));
}
//end

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let begin = 4u * m.matrix;
    let codes = weights[begin + row * units(m) + u];
    let scale = scale_of(m, begin + m.n_out * units(m), row, u);
    //if packed_dot
    return scaled(vec2(codes, codes >> 4u) & vec2(0x0f0f0f0fu), scale);
    //else
    let lo = vec4<f32>((vec4(codes) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u));
    let hi = vec4<f32>((vec4(codes) >> vec4(16u, 20u, 24u, 28u)) & vec4(15u));
    return scaled(lo, hi, scale);
    //end
}
