// RWKV-4's weighted average per channel. State [3, WIDTH]: sums a and b, both divided by exp(p).

var<private> a: f32;
var<private> b: f32;
var<private> p: f32;

fn rows_of(i: u32) -> Segment { return segment(i); }
fn load_state(at: u32, head: u32, c: u32, lane: u32) {
    a = states[at + c];
    b = states[at + WIDTH + c];
    p = states[at + 2u * WIDTH + c];
}
fn store_state(at: u32, head: u32, c: u32, lane: u32) {
    states[at + c] = a;
    states[at + WIDTH + c] = b;
    states[at + 2u * WIDTH + c] = p;
}

fn wkv4(k: f32, v: f32, decay: f32, first: f32) -> f32 {
    let q = max(p, first + k);
    let old = exp(p - q);
    let new_ = exp(first + k - q);
    let y = (old * a + new_ * v) / (old * b + new_);
    let next = max(p + decay, k);
    let kept = exp(p + decay - next);
    let added = exp(k - next);
    a = kept * a + added * v;
    b = kept * b + added;
    p = next;
    return y;
}
