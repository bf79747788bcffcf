// A unit: eight weights or inputs along a row, in lines of 16 bytes.

//if packed_dot
// Codes, and inputs rounded to such: a line (codes, codes, scale, offset) for weight = scale * code + offset, and for inputs
// (codes, codes, scale, sum of what the codes stand for). A code is a signed byte, at most 127 times the scale of its unit.
const LINES = 1u;
alias Line = vec4<u32>;
alias Unit = Line;

fn product(w: Line, x: Line) -> f32 {
    let codes = f32(dot4I8Packed(w.x, x.x) + dot4I8Packed(w.y, x.y));
    let scaled = bitcast<f32>(w.z) * bitcast<f32>(x.z) * codes;
    if (OFFSET == 0u && ZERO == 0u) { return scaled; }
    return scaled + bitcast<f32>(w.w) * bitcast<f32>(x.w);
}
fn unit_product(w: Unit, x: Unit) -> f32 { return product(w, x); }

const LEAST = 1e-30;   // what is less is zero: one over it overflows

fn unit_of_inputs(lo: vec4<f32>, hi: vec4<f32>) -> Unit {
    // Of numbers without a sign the bits have the same order, and NaN is the largest: the scale, and thereby all, is NaN then.
    let larger = max(bitcast<vec4<u32>>(abs(lo)), bitcast<vec4<u32>>(abs(hi)));
    let scale = bitcast<f32>(max(max(larger.x, larger.y), max(larger.z, larger.w))) / 127.0;
    let inverse = select(0.0, 1.0 / scale, scale > LEAST);
    let codes_lo = round(lo * inverse);
    let codes_hi = round(hi * inverse);
    let sum = scale * dot(codes_lo + codes_hi, vec4(1.0));
    return vec4(codes_of_inputs(vec4<i32>(codes_lo), vec4<i32>(codes_hi)), bitcast<vec2<u32>>(vec2(scale, sum)));
}
fn nothing() -> Unit { return vec4(0u); }
//else
const LINES = 2u;
alias Line = vec4<f32>;
struct Unit { lo: Line, hi: Line }

fn product(w: Line, x: Line) -> f32 { return dot(w, x); }
fn unit_product(w: Unit, x: Unit) -> f32 { return product(w.lo, x.lo) + product(w.hi, x.hi); }

fn unit_of_inputs(lo: vec4<f32>, hi: vec4<f32>) -> Unit { return Unit(lo, hi); }
fn nothing() -> Unit { return Unit(vec4(0.0), vec4(0.0)); }
//end
