// A unit: eight weights or inputs along a row, in lines of 16 bytes.

//if packed_dot
// Codes, and inputs rounded to such: a line (codes, codes, scale, offset) for weight = scale * code + offset, and for inputs
// (codes, codes, scale, sum of what the codes stand for). A code is a signed byte, at most 127 times the scale of its unit.
#define LINES 1u
typedef uint4 Line;
typedef Line Unit;

float product(Line w, Line x) {
    const float codes = dot_4x8packed_ss_int(w.x, x.x) + dot_4x8packed_ss_int(w.y, x.y);
    const float scaled = as_float(w.z) * as_float(x.z) * codes;
    return OFFSET || ZERO ? scaled + as_float(w.w) * as_float(x.w) : scaled;
}
float unit_product(Unit w, Unit x) { return product(w, x); }

uint2 codes_of_inputs(char8 codes); // in the order of the weights' codes

#define LEAST 1e-30f // what is less is zero: one over it overflows

Unit unit_of_inputs(float8 x) {
    // Of numbers without a sign the bits have the same order, and NaN is the largest: the scale, and thereby all, is NaN then.
    const uint4 larger = max(as_uint4(fabs(x.lo)), as_uint4(fabs(x.hi)));
    const float scale = as_float(max(max(larger.x, larger.y), max(larger.z, larger.w))) / 127.0f;
    const float4 ones = 1.0f;
    const float inverse = scale > LEAST ? 1.0f / scale : 0.0f;
    const float8 codes = rint(x * inverse);
    const float sum = scale * dot(codes.lo + codes.hi, ones);
    return (Unit)(codes_of_inputs(convert_char8_sat(codes)), as_uint2((float2)(scale, sum)));
}
#define NOTHING ((Unit)(0u))
//else
#define LINES 2u
typedef float4 Line;
typedef float8 Unit;

float product(Line w, Line x) { return dot(w, x); }
float unit_product(Unit w, Unit x) { return product(w.lo, x.lo) + product(w.hi, x.hi); }

#define unit_of_inputs(x) (x)
#define NOTHING ((Unit)(0.0f))
//end
