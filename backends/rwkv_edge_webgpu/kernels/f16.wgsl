// Weights as float16, two in a word: one line a unit.

//if f16
@group(0) @binding(2) var<storage, read> weights: array<mat2x4<f16>>;
//else
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
//end

fn weight_unit(m: Member, row: u32, u: u32) -> Unit {
    let line = weights[m.matrix + row * units(m) + u];
    //if f16
    return Unit(vec4<f32>(line[0]), vec4<f32>(line[1]));
    //else
    return Unit(
        vec4(unpack2x16float(line.x), unpack2x16float(line.y)),
        vec4(unpack2x16float(line.z), unpack2x16float(line.w)),
    );
    //end
}
