// Weights as float32: two lines a unit.

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let line = m.matrix + 2u * (row * units(m) + u);
    return Unit(bitcast<vec4<f32>>(weights[line]), bitcast<vec4<f32>>(weights[line + 1u]));
}
