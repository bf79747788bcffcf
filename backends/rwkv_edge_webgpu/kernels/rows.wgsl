// One workgroup a row: layer norms, token shift, and elementwise ops. Each thread has channels c = lane, lane + LANES, ...
// and reads only its own, so that what one loop over the channels wrote the next can read.
// WIDTH: of the row.  LANES: threads, a power of two.

var<workgroup> sums: array<f32, LANES>;

//if subgroup
var<private> subgroup: u32;    // of this thread
var<private> subgroups: u32;   // of the workgroup
var<private> first: bool;      // of its subgroup

fn row_sum(mine: f32, lane: u32) -> f32 {
    let part = subgroupAdd(mine);
    workgroupBarrier();
    if (first) { sums[subgroup] = part; }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < subgroups; i++) { sum += sums[i]; }
    return sum;
}
//else
fn row_sum(mine: f32, lane: u32) -> f32 {
    workgroupBarrier();
    sums[lane] = mine;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if (lane < step) { sums[lane] += sums[lane + step]; }
    }
    workgroupBarrier();
    return sums[0];
}
//end

fn row_mean(at: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var c = lane; c < WIDTH; c += LANES) { sum += arena[at + c]; }
    return row_sum(sum, lane) / f32(WIDTH);
}

fn row_variance(at: u32, mean: f32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var c = lane; c < WIDTH; c += LANES) {
        let centred = arena[at + c] - mean;
        sum += centred * centred;
    }
    return row_sum(sum, lane) / f32(WIDTH);
}

// The row before, whose own first comes from the state. The thread that reads the state's number also replaces it.
fn token_shift(at: u32, slot: u32, row: u32, c: u32) -> f32 {
    let mine = segment_of(row);
    if (row > mine.first) { return arena[at + c - WIDTH]; }
    let place = mine.state + slot + c;
    let before = states[place];
    states[place] = arena[at + c + (mine.end - 1u - row) * WIDTH];
    return before;
}

// Token shift in a segment of one row.
fn exchange(slot: u32, row: u32, c: u32, x: f32) -> f32 {
    let place = segment_of(row).state + slot + c;
    let before = states[place];
    states[place] = x;
    return before;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    //if subgroup
    @builtin(subgroup_id) index: u32, @builtin(num_subgroups) count: u32, @builtin(subgroup_invocation_id) place: u32,
    //end
) {
    //if subgroup
    subgroup = index;
    subgroups = count;
    first = place == 0u;
    //end
    let row = group.x;
    //BODY
}
