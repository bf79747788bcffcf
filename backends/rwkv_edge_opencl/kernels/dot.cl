// Products for few tokens. A workgroup has ROWS rows of a matrix and TOKENS tokens; its threads take every 64th unit.

#define LANES 64u
#define RESULTS (ROWS * TOKENS) // at most LANES, a power of two
#define SHARE (LANES / RESULTS)

kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void run(MEMORIES, uint first_word) {
    local float sums[LANES * RESULTS];
    const uint lane = get_local_id(0), first = get_group_id(1) * TOKENS, last = tokens() - 1u;
    words += first_word;
    const Member m = member_of(get_group_id(0));
    float totals[RESULTS];
    #pragma unroll
    for (uint i = 0u; i < RESULTS; i++) totals[i] = 0.0f;
    for (uint u = lane; u < units(m); u += LANES) {
        Unit x[TOKENS];
        #pragma unroll
        for (uint t = 0u; t < TOKENS; t++) x[t] = input_unit(m, min(first + t, last), u);
        #pragma unroll
        for (uint r = 0u; r < ROWS; r++) {
            const Unit w = weight_unit(m, min(m.row + r, m.n_out - 1u), u);
            #pragma unroll
            for (uint t = 0u; t < TOKENS; t++) totals[r * TOKENS + t] += unit_product(w, x[t]);
        }
    }
    //if subgroup
    const uint subgroup = get_sub_group_id(), place = get_sub_group_local_id();
    #pragma unroll
    for (uint i = 0u; i < RESULTS; i++) {
        const float part = sub_group_reduce_add(totals[i]);
        if (place == 0u) sums[i * LANES + subgroup] = part;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    //else
    #pragma unroll
    for (uint i = 0u; i < RESULTS; i++) sums[i * LANES + lane] = totals[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    // SHARE threads add up each result, RESULTS numbers each; then one of them the SHARE sums.
    float sum = 0.0f;
    for (uint i = 0u; i < RESULTS; i++) sum += sums[lane / SHARE * LANES + lane % SHARE + i * SHARE];
    barrier(CLK_LOCAL_MEM_FENCE);
    sums[lane] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    //end
    if (lane < RESULTS) {
        float y = 0.0f;
        //if subgroup
        for (uint i = 0u; i < get_num_sub_groups(); i++) y += sums[lane * LANES + i];
        //else
        for (uint i = 0u; i < SHARE; i++) y += sums[lane * SHARE + i];
        //end
        const uint row = m.row + lane / TOKENS, t = first + lane % TOKENS;
        if (row < m.n_out && t <= last) finish(m.index, row, t, y);
    }
}
