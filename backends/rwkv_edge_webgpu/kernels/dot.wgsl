// Products for few tokens. A workgroup has ROWS rows of a matrix and TOKENS tokens; its threads take every 64th unit.

const LANES = 64u;
const RESULTS = ROWS * TOKENS;   // at most LANES, a power of two
const SHARE = LANES / RESULTS;

var<workgroup> sums: array<f32, LANES * RESULTS>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    //if subgroup
    @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_invocation_id) place: u32,
    //end
) {
    let m = member_of(group.x);
    let first = group.y * TOKENS;
    let last = tokens() - 1u;
    var totals: array<f32, RESULTS>;
    for (var u = lane; u < units(m); u += LANES) {
        var x: array<Unit, TOKENS>;
        for (var t = 0u; t < TOKENS; t++) { x[t] = input_unit(m, min(first + t, last), u); }
        for (var r = 0u; r < ROWS; r++) {
            let w = weight_unit(m, min(m.row + r, m.n_out - 1u), u);
            for (var t = 0u; t < TOKENS; t++) {
                totals[r * TOKENS + t] += unit_product(w, x[t]);
            }
        }
    }
    //if subgroup
    for (var i = 0u; i < RESULTS; i++) {
        let part = subgroupAdd(totals[i]);
        if (place == 0u) { sums[i * LANES + subgroup] = part; }
    }
    workgroupBarrier();
    if (lane >= RESULTS) { return; }
    var y = 0.0;
    for (var i = 0u; i < subgroups; i++) { y += sums[lane * LANES + i]; }
    //else
    for (var i = 0u; i < RESULTS; i++) { sums[i * LANES + lane] = totals[i]; }
    workgroupBarrier();
    // SHARE threads add up each result, RESULTS numbers each; then one of them the SHARE sums.
    var sum = 0.0;
    for (var i = 0u; i < RESULTS; i++) { sum += sums[lane / SHARE * LANES + lane % SHARE + i * SHARE]; }
    workgroupBarrier();
    sums[lane] = sum;
    workgroupBarrier();
    if (lane >= RESULTS) { return; }
    var y = 0.0;
    for (var i = 0u; i < SHARE; i++) { y += sums[lane * SHARE + i]; }
    //end
    let row = m.row + lane / TOKENS;
    let t = first + lane % TOKENS;
    if (row < m.n_out && t <= last) { finish(m.index, row, t, y); }
}
