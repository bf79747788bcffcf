"""Facts about this computer, and what is remembered on it between processes."""
