// One workgroup a row: layer norms, token shift, and elementwise ops. Each thread has channels c = lane, lane + LANES, ...
// and reads only its own, so that what one loop over the channels wrote the next can read.
// WIDTH: of the row.  LANES: threads, a power of two.

//if subgroup
float row_sum(local float *sums, float mine, uint lane) {
    const float part = sub_group_reduce_add(mine);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (get_sub_group_local_id() == 0u) sums[get_sub_group_id()] = part;
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = 0.0f;
    for (uint i = 0u; i < get_num_sub_groups(); i++) sum += sums[i];
    return sum;
}
//else
float row_sum(local float *sums, float mine, uint lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    sums[lane] = mine;
    for (uint reach = LANES / 2u; reach > 0u; reach /= 2u) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane < reach) sums[lane] += sums[lane + reach];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return sums[0];
}
//end

float row_mean(local float *sums, global const float *arena, uint at, uint lane) {
    float sum = 0.0f;
    for (uint c = lane; c < WIDTH; c += LANES) sum += arena[at + c];
    return row_sum(sums, sum, lane) / WIDTH;
}
#define row_mean(at, lane) row_mean(sums, arena, at, lane)

float row_variance(local float *sums, global const float *arena, uint at, float mean, uint lane) {
    float sum = 0.0f;
    for (uint c = lane; c < WIDTH; c += LANES) {
        const float centred = arena[at + c] - mean;
        sum += centred * centred;
    }
    return row_sum(sums, sum, lane) / WIDTH;
}
#define row_variance(at, mean, lane) row_variance(sums, arena, at, mean, lane)

// The row before, whose own first comes from the state. The thread that reads the state's number also replaces it.
float token_shift(MEMORIES, uint at, uint slot, uint row, uint c) {
    const Segment mine = segment_of(row);
    if (row > mine.first) return arena[at + c - WIDTH];
    const uint place = mine.state + slot + c;
    const float before = states[place];
    states[place] = arena[at + c + (mine.end - 1u - row) * WIDTH];
    return before;
}
#define token_shift(at, slot, row, c) token_shift(THESE, at, slot, row, c)

// Token shift in a segment of one row.
float exchange(MEMORIES, uint slot, uint row, uint c, float x) {
    const uint place = segment_of(row).state + slot + c;
    const float before = states[place];
    states[place] = x;
    return before;
}
#define exchange(slot, row, c, x) exchange(THESE, slot, row, c, x)

kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void run(MEMORIES, uint first_word) {
    local float sums[LANES];
    const uint row = get_group_id(0), lane = get_local_id(0);
    words += first_word;
    //BODY
}
