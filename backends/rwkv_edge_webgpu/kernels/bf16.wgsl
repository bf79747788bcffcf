// Weights as bfloat16, the upper halves of float32, two in a word: one line a unit.

@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

fn both(pair: u32) -> vec2<f32> {
    return vec2(bitcast<f32>(pair << 16u), bitcast<f32>(pair & 0xffff0000u));
}

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let line = weights[m.matrix + row * units(m) + u];
    return Unit(vec4(both(line.x), both(line.y)), vec4(both(line.z), both(line.w)));
}
