// RWKV-7's delta rule. State [heads, value channel, key channel]: a thread has PART key channels of its value channel's row.

var<private> state: array<f32, PART>;
var<workgroup> rs: array<f32, SIZE>;
var<workgroup> ks: array<f32, SIZE>;
var<workgroup> decays: array<f32, SIZE>;
var<workgroup> kks: array<f32, SIZE>;
var<workgroup> kkas: array<f32, SIZE>;

fn rows_of(i: u32) -> Segment { return segment(i); }
fn place(at: u32, head: u32, lane: u32) -> u32 {
    return at + (head * SIZE + lane / PARTS) * SIZE + lane % PARTS * PART;
}
fn load_state(at: u32, head: u32, c: u32, lane: u32) {
    let begin = place(at, head, lane);
    for (var j = 0u; j < PART; j++) { state[j] = states[begin + j]; }
}
fn store_state(at: u32, head: u32, c: u32, lane: u32) {
    let begin = place(at, head, lane);
    for (var j = 0u; j < PART; j++) { states[begin + j] = state[j]; }
}

fn wkv7(r: f32, decay: f32, k: f32, v: f32, kk: f32, a: f32, lane: u32) -> f32 {
    workgroupBarrier();
    if (lane % PARTS == 0u) {
        let channel = lane / PARTS;
        rs[channel] = r;
        ks[channel] = k;
        decays[channel] = decay;
        kks[channel] = kk;
        kkas[channel] = kk * a;
    }
    workgroupBarrier();
    let begin = lane % PARTS * PART;
    var removed = 0.0;
    for (var j = 0u; j < PART; j++) { removed += state[j] * kks[begin + j]; }
    removed = parts_sum(removed, lane);
    var y = 0.0;
    for (var j = 0u; j < PART; j++) {
        state[j] = state[j] * decays[begin + j] - removed * kkas[begin + j] + v * ks[begin + j];
        y += state[j] * rs[begin + j];
    }
    return parts_sum(y, lane);
}
