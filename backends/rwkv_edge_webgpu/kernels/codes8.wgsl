// Weights as signed bytes: two words a unit.

@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;

fn weight_word(i: u32) -> u32 { return weights[i / 2u][i % 2u]; }

//if packed_dot
fn codes_of_inputs(lo: vec4<i32>, hi: vec4<i32>) -> vec2<u32> { return vec2(pack4xI8(lo), pack4xI8(hi)); }
//end

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let codes = weights[2u * m.matrix + row * units(m) + u];
    let scale = scale_of(m, row, u);
    //if packed_dot
    return scaled(codes, scale);
    //else
    return scaled(vec4<f32>(unpack4xI8(codes.x)), vec4<f32>(unpack4xI8(codes.y)), scale);
    //end
}
