// What the kernels for few tokens (dot) and for many (tiles) share. A launch multiplies several matrices, its members:
// a workgroup belongs to one.
// WHOLE: all rows of inputs are whole units.

// index: which.  row: the workgroup's first row.  x: where its inputs [rows, n_in] begin.  matrix: its first line of weights.
struct Member { index: u32, row: u32, n_out: u32, n_in: u32, x: u32, matrix: u32 }

fn member_of(group: u32) -> Member {
    //CHOOSE
    return Member(0u, 0u, 0u, 0u, 0u, 0u);
}

fn tokens() -> u32 { return select(n_rows(), n_outputs(), PER_OUTPUT == 1u); }

fn units(m: Member) -> u32 { return (m.n_in + 7u) / 8u; }

// Unit u of token t's input, zero behind its end.
fn input_unit(m: Member, t: u32, u: u32) -> Unit {
    let at = m.x + t * m.n_in + 8u * u;
    if (WHOLE == 1u || 8u * u + 8u <= m.n_in) {
        return unit_of_inputs(
            vec4(arena[at], arena[at + 1u], arena[at + 2u], arena[at + 3u]),
            vec4(arena[at + 4u], arena[at + 5u], arena[at + 6u], arena[at + 7u]),
        );
    }
    var x: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) {
        x[i] = 0.0;
        if (8u * u + i < m.n_in) { x[i] = arena[at + i]; }
    }
    return unit_of_inputs(vec4(x[0], x[1], x[2], x[3]), vec4(x[4], x[5], x[6], x[7]));
}

// Does with a product what follows in the plan.
fn finish(member: u32, row: u32, t: u32, y: f32) {
    switch (member) {
        //BODY
        default: {}
    }
}
