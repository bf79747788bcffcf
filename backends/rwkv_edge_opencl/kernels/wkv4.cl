// RWKV-4's weighted average per channel. State [3, WIDTH]: sums a and b, both divided by exp(p).

typedef struct { float a, b, p; } State;

Segment rows_of(global const uint *inputs, uint i) { return segment(i); }
void load_state(State *state, global const float *at, uint head, uint c, uint lane) {
    *state = (State){at[c], at[WIDTH + c], at[2u * WIDTH + c]};
}
void store_state(const State *state, global float *at, uint head, uint c, uint lane) {
    at[c] = state->a;
    at[WIDTH + c] = state->b;
    at[2u * WIDTH + c] = state->p;
}

float wkv4(State *state, float k, float v, float decay, float first) {
    const float a = state->a, b = state->b, p = state->p;
    const float q = max(p, first + k);
    const float old = exp(p - q);
    const float fresh = exp(first + k - q);
    const float next = max(p + decay, k);
    const float kept = exp(p + decay - next);
    const float added = exp(k - next);
    *state = (State){kept * a + added * v, kept * b + added, next};
    return (old * a + fresh * v) / (old * b + fresh);
}
#define wkv4(k, v, decay, first) wkv4(&state, k, v, decay, first)
