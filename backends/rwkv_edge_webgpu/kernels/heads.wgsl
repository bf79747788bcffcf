// One workgroup a head (or SIZE channels) of a sequence, row after row. SIZE * PARTS threads: `channel` of the head and
// `part`: threads of a channel share its row of the state, PART numbers each, and otherwise do the same.

const LANES = SIZE * PARTS;

var<workgroup> sums: array<f32, LANES>;
var<workgroup> channels: array<f32, SIZE>;

// The sum of what the threads of one channel have.
fn parts_sum(mine: f32, lane: u32) -> f32 {
    if (PARTS == 1u) { return mine; }
    workgroupBarrier();
    sums[lane] = mine;
    workgroupBarrier();
    var sum = 0.0;
    for (var part = 0u; part < PARTS; part++) { sum += sums[lane / PARTS * PARTS + part]; }
    return sum;
}

// The sum over the head's channels.
fn head_sum(x: f32, lane: u32) -> f32 {
    workgroupBarrier();
    if (lane % PARTS == 0u) { channels[lane / PARTS] = x; }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < PART; i++) { sum += channels[lane % PARTS * PART + i]; }
    return parts_sum(sum, lane);
}

fn group_norm(x: f32, weight: f32, bias: f32, eps: f32, lane: u32) -> f32 {
    let centred = x - head_sum(x, lane) / f32(SIZE);
    let variance = head_sum(centred * centred, lane) / f32(SIZE);
    return centred / sqrt(variance + eps) * weight + bias;
}

fn l2_normalize(x: f32, eps: f32, lane: u32) -> f32 {
    return x / max(sqrt(head_sum(x * x, lane)), eps);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let channel = group.x * SIZE + lane / PARTS;
    let stores = channel < WIDTH && lane % PARTS == 0u;
    let c = min(channel, WIDTH - 1u);
    let mine = rows_of(group.y);
    load_state(mine.state + word(0u), group.x, c, lane);
    for (var row = mine.first; row < mine.end; row++) {
        //BODY
    }
    if (channel < WIDTH) { store_state(mine.state + word(0u), group.x, c, lane); }
}
