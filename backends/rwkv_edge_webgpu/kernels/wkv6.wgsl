// RWKV-5 and 6. State [heads, key channel, value channel]: a thread has its value channel's column, PART key channels of it.

var<private> state: array<f32, PART>;
var<workgroup> rs: array<f32, SIZE>;
var<workgroup> ks: array<f32, SIZE>;
var<workgroup> decays: array<f32, SIZE>;
var<workgroup> bonuses: array<f32, SIZE>;

fn rows_of(i: u32) -> Segment { return segment(i); }
fn place(at: u32, head: u32, lane: u32, i: u32) -> u32 {
    return at + (head * SIZE + lane % PARTS * PART + i) * SIZE + lane / PARTS;
}
fn load_state(at: u32, head: u32, c: u32, lane: u32) {
    for (var i = 0u; i < PART; i++) { state[i] = states[place(at, head, lane, i)]; }
}
fn store_state(at: u32, head: u32, c: u32, lane: u32) {
    for (var i = 0u; i < PART; i++) { states[place(at, head, lane, i)] = state[i]; }
}

fn wkv6(r: f32, k: f32, v: f32, decay: f32, bonus: f32, lane: u32) -> f32 {
    workgroupBarrier();
    if (lane % PARTS == 0u) {
        let channel = lane / PARTS;
        rs[channel] = r;
        ks[channel] = k;
        decays[channel] = decay;
        bonuses[channel] = bonus;
    }
    workgroupBarrier();
    var y = 0.0;
    for (var i = 0u; i < PART; i++) {
        let key = lane % PARTS * PART + i;
        let kv = ks[key] * v;
        y += rs[key] * (bonuses[key] * kv + state[i]);
        state[i] = decays[key] * state[i] + kv;
    }
    return parts_sum(y, lane);
}
