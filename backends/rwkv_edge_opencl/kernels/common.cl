// What all kernels see. A step's constants stand in front of this file; backends/rwkv_edge_device/inputs.py describes `inputs`.
// OpenCL C has no names for memories but a kernel's parameters: functions take what they need of them, and macros of the
// same names put it in, so that the lines of a step read like the equations.

#define MEMORIES \
    global float *restrict arena,         /* activations */ \
    global const float *restrict vectors, /* norm weights, mixes, ... */ \
    global const uint4 *restrict weights, /* this step's matrices */ \
    global float *restrict states, \
    global const uint *restrict inputs, \
    global const uint *restrict words     /* this step's offsets */
#define THESE arena, vectors, weights, states, inputs, words

typedef struct { uint first, end, state; } Segment;

#define word(i) words[i]

#define n_rows() inputs[0]
#define n_outputs() inputs[1]

// Where a buffer begins that takes `offset` numbers per row of its pool.
#define token_rows(offset) ((offset) * n_rows())
#define output_rows(offset) (inputs[3] + (offset) * n_outputs())

#define output_row(output) inputs[inputs[6] + (output)]

Segment segment(global const uint *inputs, uint i) {
    const uint at = inputs[5] + 3u * i;
    return (Segment){inputs[at], inputs[at + 1u], inputs[at + 2u]};
}
#define segment(i) segment(inputs, i)
#define segment_of(row) segment(inputs[inputs[4] + (row)])

#define embedded(offset, row, c) as_float(inputs[inputs[7] + token_rows(offset) + (row) * WIDTH + (c)])

float lerp(float a, float b, float w) { return a + (b - a) * w; }

// Arguments are kept where no implementation of exp or tanh overflows; the results are the same there.
float sigmoid_of(float x) {
    const float small = exp(-fabs(x));
    return (x >= 0.0f ? 1.0f : small) / (1.0f + small);
}
float tanh_of(float x) { return tanh(clamp(x, -15.0f, 15.0f)); }
float silu_of(float x) { return x * sigmoid_of(x); }
float relu_squared_of(float x) { return max(x, 0.0f) * max(x, 0.0f); }
float exp_neg_exp_of(float x) { return exp(-exp(min(x, 80.0f))); }
float decay7_of(float x) { return exp(-0.606531f * sigmoid_of(x)); }
