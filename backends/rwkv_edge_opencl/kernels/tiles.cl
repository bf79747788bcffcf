// Products for many tokens. A workgroup has a tile of ROWS matrix rows by TOKENS tokens; each of its threads 4 by 4 of them.
// The matrix and the inputs go through local memory, some units of each row at a time.

#define LANES 128u
#define DEPTH 8u // lines of a row at a time
#define DEPTH_UNITS (DEPTH / LINES)
#define PITCH (DEPTH + 1u) // odd, so that rows lie in different banks
#define SIDE 4u
#define ROW_STEP (ROWS / SIDE)
#define TOKEN_STEP (TOKENS / SIDE)

kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void run(MEMORIES, uint first_word) {
    local Line matrix[ROWS * PITCH];
    local Line tile[TOKENS * PITCH];
    const uint lane = get_local_id(0), first = get_group_id(1) * TOKENS, last = tokens() - 1u;
    words += first_word;
    const Member m = member_of(get_group_id(0));
    const uint my_row = lane % ROW_STEP, my_token = lane / ROW_STEP;
    float totals[SIDE * SIDE];
    #pragma unroll
    for (uint i = 0u; i < SIDE * SIDE; i++) totals[i] = 0.0f;
    for (uint begin = 0u; begin < units(m); begin += DEPTH_UNITS) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = lane; i < ROWS * DEPTH_UNITS; i += LANES) {
            const uint u = begin + i % DEPTH_UNITS, at = i / DEPTH_UNITS * PITCH + LINES * (i % DEPTH_UNITS);
            const Unit w = u < units(m) ? weight_unit(m, min(m.row + i / DEPTH_UNITS, m.n_out - 1u), u) : NOTHING;
            //if packed_dot
            matrix[at] = w;
            //else
            matrix[at] = w.lo;
            matrix[at + 1u] = w.hi;
            //end
        }
        for (uint i = lane; i < TOKENS * DEPTH_UNITS; i += LANES) {
            const uint u = begin + i % DEPTH_UNITS, at = i / DEPTH_UNITS * PITCH + LINES * (i % DEPTH_UNITS);
            const Unit x = u < units(m) ? input_unit(m, min(first + i / DEPTH_UNITS, last), u) : NOTHING;
            //if packed_dot
            tile[at] = x;
            //else
            tile[at] = x.lo;
            tile[at + 1u] = x.hi;
            //end
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint k = 0u; k < DEPTH; k++) {
            Line x[SIDE];
            #pragma unroll
            for (uint t = 0u; t < SIDE; t++) x[t] = tile[(my_token + t * TOKEN_STEP) * PITCH + k];
            #pragma unroll
            for (uint r = 0u; r < SIDE; r++) {
                const Line w = matrix[(my_row + r * ROW_STEP) * PITCH + k];
                #pragma unroll
                for (uint t = 0u; t < SIDE; t++) totals[r * SIDE + t] += product(w, x[t]);
            }
        }
    }
    #pragma unroll
    for (uint r = 0u; r < SIDE; r++) {
        #pragma unroll
        for (uint t = 0u; t < SIDE; t++) {
            const uint row = m.row + my_row + r * ROW_STEP, token = first + my_token + t * TOKEN_STEP;
            if (row < m.n_out && token <= last) finish(m.index, row, token, totals[r * SIDE + t]);
        }
    }
}
