// RWKV-5 and 6. State [heads, key channel, value channel]: a thread has its value channel's column, PART key channels of it.

typedef struct { float of[PART]; } State;

Segment rows_of(global const uint *inputs, uint i) { return segment(i); }
uint place(uint head, uint lane, uint i) { return (head * SIZE + lane % PARTS * PART + i) * SIZE + lane / PARTS; }
void load_state(State *state, global const float *at, uint head, uint c, uint lane) {
    #pragma unroll
    for (uint i = 0u; i < PART; i++) state->of[i] = at[place(head, lane, i)];
}
void store_state(const State *state, global float *at, uint head, uint c, uint lane) {
    #pragma unroll
    for (uint i = 0u; i < PART; i++) at[place(head, lane, i)] = state->of[i];
}

float wkv6(State *state, local Shared *shared, float r, float k, float v, float decay, float bonus, uint lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane % PARTS == 0u) {
        const uint channel = lane / PARTS;
        shared->r[channel] = r;
        shared->k[channel] = k;
        shared->decay[channel] = decay;
        shared->bonus[channel] = bonus;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const uint begin = lane % PARTS * PART;
    float y = 0.0f;
    #pragma unroll
    for (uint i = 0u; i < PART; i++) {
        const float kv = shared->k[begin + i] * v;
        y += shared->r[begin + i] * (shared->bonus[begin + i] * kv + state->of[i]);
        state->of[i] = shared->decay[begin + i] * state->of[i] + kv;
    }
    return parts_sum(shared, y, lane);
}
#define wkv6(r, k, v, decay, bonus, lane) wkv6(&state, shared, r, k, v, decay, bonus, lane)
