"""A Plan as records, and the threads that walk over them."""
