// Weights as 4, 5 or 6 bits: one word a unit has the low four of each, a plane behind all of these the others.

@group(0) @binding(2) var<storage, read> weights: array<u32>;

const HIGH = max(CODE_BITS, 5u) - 4u; // bits in the plane, if there is one
const TOGETHER = 4u / HIGH;           // units that share a word of it

fn weight_word(i: u32) -> u32 { return weights[i]; }

//if packed_dot
fn codes_of_inputs(lo: vec4<i32>, hi: vec4<i32>) -> vec2<u32> {
    return vec2(pack4xI8(vec4(lo.xz, hi.xz)), pack4xI8(vec4(lo.yw, hi.yw)));
}
//end

// Bytes: codes 0, 2, 4, 6 and 1, 3, 5, 7, which masks take out.
fn codes_of(m: Member, row: u32, u: u32) -> vec2<u32> {
    let begin = 4u * m.matrix;
    let unit = row * units(m) + u;
    let low = weights[begin + unit];
    let codes = vec2(low, low >> 4u) & vec2(0x0f0f0f0fu);
    if (CODE_BITS == 4u) { return codes; }
    let high = weights[begin + m.n_out * units(m) + unit / TOGETHER] >> (2u * HIGH * (u % TOGETHER));
    return codes | ((vec2(high, high >> HIGH) & vec2(((1u << HIGH) - 1u) * 0x01010101u)) << vec2(4u));
}

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let codes = codes_of(m, row, u);
    let scale = scale_of(m, row, u);
    //if packed_dot
    return scaled(codes, scale);
    //else
    let even = vec4<f32>(unpack4xU8(codes.x));
    let odd = vec4<f32>(unpack4xU8(codes.y));
    return scaled(vec4(even.x, odd.x, even.y, odd.y), vec4(even.z, odd.z, even.w, odd.w), scale);
    //end
}
