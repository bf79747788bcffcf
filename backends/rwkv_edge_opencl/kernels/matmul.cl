// What the kernels for few tokens (dot) and for many (tiles) share. A launch multiplies several matrices, its members:
// a workgroup belongs to one.
// WHOLE: all rows of inputs are whole units.

// index: which.  row: the workgroup's first row.  x: where its inputs [rows, n_in] begin.  matrix: its first line of weights.
typedef struct { uint index, row, n_out, n_in, x, matrix; } Member;

Member member_of(MEMORIES, uint group) {
    //CHOOSE
    return (Member){0u, 0u, 0u, 0u, 0u, 0u};
}
#define member_of(group) member_of(THESE, group)

#define tokens() (PER_OUTPUT ? n_outputs() : n_rows())
#define units(m) (((m).n_in + 7u) / 8u)

// Unit u of token t's input, zero behind its end.
Unit input_unit(global const float *arena, Member m, uint t, uint u) {
    global const float *x = arena + m.x + t * m.n_in + 8u * u;
    if (WHOLE || 8u * u + 8u <= m.n_in) return unit_of_inputs(vload8(0, x));
    float rest[8];
    for (uint i = 0u; i < 8u; i++) rest[i] = 8u * u + i < m.n_in ? x[i] : 0.0f;
    return unit_of_inputs(vload8(0, rest));
}
#define input_unit(m, t, u) input_unit(arena, m, t, u)

// Does with a product what follows in the plan.
void finish(MEMORIES, uint member, uint row, uint t, float y) {
    switch (member) {
        //BODY
        default: break;
    }
}
#define finish(member, row, t, y) finish(THESE, member, row, t, y)
