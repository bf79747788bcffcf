// Threads of a head. SIZE * PARTS threads: `channel` of the head and `part`: threads of a channel share its row of the state,
// PART numbers each, and otherwise do the same.

#define LANES (SIZE * PARTS)

// What a workgroup shares: a number of each thread, one of each channel, and what the WKV ops need of all channels.
typedef struct { float sums[LANES], channels[SIZE], r[SIZE], k[SIZE], decay[SIZE], bonus[SIZE], kk[SIZE], kka[SIZE]; } Shared;

// The sum of what the threads of one channel have.
float parts_sum(local Shared *shared, float mine, uint lane) {
    if (PARTS == 1u) return mine;
    barrier(CLK_LOCAL_MEM_FENCE);
    shared->sums[lane] = mine;
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = 0.0f;
    for (uint part = 0u; part < PARTS; part++) sum += shared->sums[lane / PARTS * PARTS + part];
    return sum;
}
