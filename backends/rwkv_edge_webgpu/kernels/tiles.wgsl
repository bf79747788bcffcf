// Products for many tokens. A workgroup has a tile of ROWS matrix rows by TOKENS tokens; each of its threads 4 by 4 of them.
// The matrix and the inputs go through workgroup memory, some units of each row at a time.

const LANES = 128u;
const DEPTH = 8u;           // lines of a row at a time
const DEPTH_UNITS = DEPTH / LINES;
const PITCH = DEPTH + 1u;   // odd, so that rows lie in different banks
const SIDE = 4u;
const ROW_STEP = ROWS / SIDE;
const TOKEN_STEP = TOKENS / SIDE;

var<workgroup> matrix: array<Line, ROWS * PITCH>;
var<workgroup> tile: array<Line, TOKENS * PITCH>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = member_of(group.x);
    let first = group.y * TOKENS;
    let last = tokens() - 1u;
    let my_row = lane % ROW_STEP;
    let my_token = lane / ROW_STEP;
    var totals: array<f32, SIDE * SIDE>;
    for (var begin = 0u; begin < units(m); begin += DEPTH_UNITS) {
        workgroupBarrier();
        for (var i = lane; i < ROWS * DEPTH_UNITS; i += LANES) {
            let u = begin + i % DEPTH_UNITS;
            var w = nothing();
            if (u < units(m)) { w = weight_unit(m, min(m.row + i / DEPTH_UNITS, m.n_out - 1u), u); }
            let at = i / DEPTH_UNITS * PITCH + LINES * (i % DEPTH_UNITS);
            //if packed_dot
            matrix[at] = w;
            //else
            matrix[at] = w.lo;
            matrix[at + 1u] = w.hi;
            //end
        }
        for (var i = lane; i < TOKENS * DEPTH_UNITS; i += LANES) {
            let u = begin + i % DEPTH_UNITS;
            var x = nothing();
            if (u < units(m)) { x = input_unit(m, min(first + i / DEPTH_UNITS, last), u); }
            let at = i / DEPTH_UNITS * PITCH + LINES * (i % DEPTH_UNITS);
            //if packed_dot
            tile[at] = x;
            //else
            tile[at] = x.lo;
            tile[at + 1u] = x.hi;
            //end
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            var x: array<Line, SIDE>;
            for (var t = 0u; t < SIDE; t++) { x[t] = tile[(my_token + t * TOKEN_STEP) * PITCH + k]; }
            for (var r = 0u; r < SIDE; r++) {
                let w = matrix[(my_row + r * ROW_STEP) * PITCH + k];
                for (var t = 0u; t < SIDE; t++) { totals[r * SIDE + t] += product(w, x[t]); }
            }
        }
    }
    for (var r = 0u; r < SIDE; r++) {
        for (var t = 0u; t < SIDE; t++) {
            let row = m.row + my_row + r * ROW_STEP;
            let token = first + my_token + t * TOKEN_STEP;
            if (row < m.n_out && token <= last) { finish(m.index, row, token, totals[r * SIDE + t]); }
        }
    }
}
