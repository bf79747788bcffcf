// One workgroup a head (or SIZE channels) of a sequence, row after row.

// The sum over the head's channels.
float head_sum(local Shared *shared, float x, uint lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane % PARTS == 0u) shared->channels[lane / PARTS] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = 0.0f;
    for (uint i = 0u; i < PART; i++) sum += shared->channels[lane % PARTS * PART + i];
    return parts_sum(shared, sum, lane);
}
#define head_sum(x, lane) head_sum(shared, x, lane)

float group_norm(local Shared *shared, float x, float weight, float bias, float eps, uint lane) {
    const float centred = x - head_sum(x, lane) / SIZE;
    const float variance = head_sum(centred * centred, lane) / SIZE;
    return centred / sqrt(variance + eps) * weight + bias;
}
#define group_norm(x, weight, bias, eps, lane) group_norm(shared, x, weight, bias, eps, lane)

float l2_normalize(local Shared *shared, float x, float eps, uint lane) {
    return x / max(sqrt(head_sum(x * x, lane)), eps);
}
#define l2_normalize(x, eps, lane) l2_normalize(shared, x, eps, lane)

kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void run(MEMORIES, uint first_word) {
    local Shared memory;
    local Shared *shared = &memory;
    const uint head = get_group_id(0), lane = get_local_id(0);
    const uint channel = head * SIZE + lane / PARTS;
    const bool stores = channel < WIDTH && lane % PARTS == 0u;
    const uint c = min(channel, WIDTH - 1u);
    words += first_word;
    const Segment mine = rows_of(inputs, get_group_id(1));
    State state;
    load_state(&state, states + mine.state + word(0), head, c, lane);
    for (uint row = mine.first; row < mine.end; row++) {
        //BODY
    }
    if (channel < WIDTH) store_state(&state, states + mine.state + word(0), head, c, lane);
}
