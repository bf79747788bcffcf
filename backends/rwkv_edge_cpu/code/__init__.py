"""Machine code: how a kernel is compiled, linked, kept between processes and loaded; what this processor can do."""
