// RWKV-7's delta rule. State [heads, value channel, key channel]: a thread has PART key channels of its value channel's row.

typedef struct { float of[PART]; } State;

Segment rows_of(global const uint *inputs, uint i) { return segment(i); }
uint place(uint head, uint lane) { return (head * SIZE + lane / PARTS) * SIZE + lane % PARTS * PART; }
void load_state(State *state, global const float *at, uint head, uint c, uint lane) {
    #pragma unroll
    for (uint j = 0u; j < PART; j++) state->of[j] = at[place(head, lane) + j];
}
void store_state(const State *state, global float *at, uint head, uint c, uint lane) {
    #pragma unroll
    for (uint j = 0u; j < PART; j++) at[place(head, lane) + j] = state->of[j];
}

float wkv7(State *state, local Shared *shared, float r, float decay, float k, float v, float kk, float a, uint lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane % PARTS == 0u) {
        const uint channel = lane / PARTS;
        shared->r[channel] = r;
        shared->k[channel] = k;
        shared->decay[channel] = decay;
        shared->kk[channel] = kk;
        shared->kka[channel] = kk * a;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const uint begin = lane % PARTS * PART;
    float removed = 0.0f;
    #pragma unroll
    for (uint j = 0u; j < PART; j++) removed += state->of[j] * shared->kk[begin + j];
    removed = parts_sum(shared, removed, lane);
    float y = 0.0f;
    #pragma unroll
    for (uint j = 0u; j < PART; j++) {
        state->of[j] = state->of[j] * shared->decay[begin + j] - removed * shared->kka[begin + j] + v * shared->k[begin + j];
        y += state->of[j] * shared->r[begin + j];
    }
    return parts_sum(shared, y, lane);
}
#define wkv7(r, decay, k, v, kk, a, lane) wkv7(&state, shared, r, decay, k, v, kk, a, lane)
