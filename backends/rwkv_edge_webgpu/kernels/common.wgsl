// What all kernels see. A step's constants stand in front of this file; backends/rwkv_edge_device/inputs.py describes `inputs`.
// `//if`: lines for devices with that feature (features.py), `//else` for the others.

@group(0) @binding(0) var<storage, read_write> arena: array<f32>;     // activations
@group(0) @binding(1) var<storage, read> vectors: array<f32>;         // norm weights, mixes, ...
// binding 2: this step's matrices, in the files for their layouts
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
@group(0) @binding(4) var<storage, read> inputs: array<u32>;
@group(0) @binding(5) var<uniform> words: array<vec4<u32>, 32>;       // this step's offsets

struct Segment { first: u32, end: u32, state: u32 }

fn word(i: u32) -> u32 { return words[i / 4u][i % 4u]; }

fn n_rows() -> u32 { return inputs[0]; }
fn n_outputs() -> u32 { return inputs[1]; }

// Where a buffer begins that takes `offset` numbers per row of its pool.
fn token_rows(offset: u32) -> u32 { return offset * n_rows(); }
fn output_rows(offset: u32) -> u32 { return inputs[3] + offset * n_outputs(); }

fn output_row(output: u32) -> u32 { return inputs[inputs[6] + output]; }
fn segment(i: u32) -> Segment {
    let at = inputs[5] + 3u * i;
    return Segment(inputs[at], inputs[at + 1u], inputs[at + 2u]);
}
fn segment_of(row: u32) -> Segment { return segment(inputs[inputs[4] + row]); }
fn embedded(offset: u32, row: u32, c: u32) -> f32 {
    return bitcast<f32>(inputs[inputs[7] + token_rows(offset) + row * WIDTH + c]);
}

fn lerp(a: f32, b: f32, w: f32) -> f32 { return a + (b - a) * w; }

// Arguments are kept where no implementation of exp or tanh overflows; the results are the same there.
fn sigmoid_of(x: f32) -> f32 {
    let small = exp(-abs(x));
    return select(small, 1.0, x >= 0.0) / (1.0 + small);
}
fn tanh_of(x: f32) -> f32 { return tanh(clamp(x, -15.0, 15.0)); }
fn silu_of(x: f32) -> f32 { return x * sigmoid_of(x); }
fn relu_squared_of(x: f32) -> f32 { return max(x, 0.0) * max(x, 0.0); }
fn exp_neg_exp_of(x: f32) -> f32 { return exp(-exp(min(x, 80.0))); }
fn decay7_of(x: f32) -> f32 { return exp(-0.606531 * sigmoid_of(x)); }
