// Weights as float32: two lines a unit.

@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let line = m.matrix + 2u * (row * units(m) + u);
    return Unit(weights[line], weights[line + 1u]);
}
