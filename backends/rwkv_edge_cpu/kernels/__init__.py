"""The ops, and the walk over them, as functions that Numba compiles."""
