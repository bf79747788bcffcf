// Ops of a head that have no state: a workgroup has one row.

fn rows_of(i: u32) -> Segment { return Segment(i, i + 1u, 0u); }
fn load_state(at: u32, head: u32, c: u32, lane: u32) {}
fn store_state(at: u32, head: u32, c: u32, lane: u32) {}
