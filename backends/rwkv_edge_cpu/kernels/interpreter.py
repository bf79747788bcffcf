"""The compiled walk over the records: every thread runs `walk` once per step, and all meet at barriers."""
from rwkv_edge_cpu.code.intrinsics import call_kernel, clock, fetch_add, int64s, load_acquire, pause, yield_core
from rwkv_edge_cpu.code.jit import inlined, walker
from rwkv_edge_cpu.code.system import CLOCK_TICKS
from rwkv_edge_cpu.shape.layout import ABORT, ARRIVED, BARRIER, COUNTERS, GRAIN, KERNEL, N_FIELDS, UNITS, WAITED

SPINS = 100  # before looking at the clock: about a microsecond
PATIENCE = CLOCK_TICKS // 30_000  # before giving the core away, which on a busy machine is for milliseconds


@inlined
def all_here(control, target):
    """Wait until `target` arrivals have been counted; False when the run was aborted. Long waits are added to WAITED."""
    spins, since = 0, 0
    while load_acquire(control + 8 * ARRIVED) < target:
        if load_acquire(control + 8 * ABORT) != 0:
            return False
        if spins < SPINS:
            spins += 1
            pause()
        elif since == 0:
            since = clock()
        elif clock() - since > PATIENCE:
            yield_core()
    if since:
        fetch_add(control + 8 * WAITED, clock() - since)
    return True


@inlined
def share_pieces(taken, step, record, frame, scratch, worker, workers):
    """Do pieces of an op, of GRAIN units, until none is left: first those of this worker's own span, in order, because memory
    is fast only for who reads on where it stopped; then what others have not come to in theirs.

    taken: address of the first worker's count of pieces that were taken from its span; the next worker's is `step` on.
    """
    r = int64s(record, N_FIELDS)
    units, grain, kernel = r[UNITS], r[GRAIN], r[KERNEL]
    pieces = (units + grain - 1) // grain
    for i in range(workers):
        owner = (worker + i) % workers
        first, end = pieces * owner // workers, pieces * (owner + 1) // workers
        piece = first + fetch_add(taken + step * owner, 1)
        while piece < end:
            call_kernel(kernel, record, frame, scratch, grain * piece, min(grain * (piece + 1), units))
            piece = first + fetch_add(taken + step * owner, 1)


@walker
def walk(records, n_records, frame, control, scratch, worker, workers, arrived, times):
    """Do this worker's part of all ops. Addresses: records, frame, control, scratch. Returns 1 when done, 0 when aborted.

    `arrived`: arrivals counted in earlier runs. The counter only grows, so nobody has to wait for those who are still leaving.
    Only worker 0 waits for the others at the end. `times`: 0, or where to note for each op when this worker came to it and
    when it began, and when it was through with all.
    """
    for i in range(n_records):
        record = records + 8 * N_FIELDS * i
        r = int64s(record, N_FIELDS)
        if times:
            int64s(times, 2 * n_records + 1)[2 * i] = clock()
        if r[BARRIER] and workers > 1:
            fetch_add(control + 8 * ARRIVED, 1)
            arrived += workers
            if not all_here(control, arrived):
                return 0
        if times:
            int64s(times, 2 * n_records + 1)[2 * i + 1] = clock()
        units, grain = r[UNITS], r[GRAIN]
        if grain == 0:
            # Multiples of 16 floats, so that two threads do not write to the same cache line.
            begin, end = units * worker // workers // 16 * 16, units * (worker + 1) // workers // 16 * 16
            if worker + 1 == workers:
                end = units
            if begin < end:
                call_kernel(r[KERNEL], record, frame, scratch, begin, end)
        elif workers == 1:  # the same pieces: where one ends may decide in which order numbers are summed
            for begin in range(0, units, grain):
                call_kernel(r[KERNEL], record, frame, scratch, begin, min(begin + grain, units))
        else:
            share_pieces(control + 8 * (COUNTERS + i), 8 * n_records, record, frame, scratch, worker, workers)
    if workers > 1:
        fetch_add(control + 8 * ARRIVED, 1)
        if worker == 0 and not all_here(control, arrived + workers):
            return 0
    if times:
        int64s(times, 2 * n_records + 1)[2 * n_records] = clock()
    return 1
