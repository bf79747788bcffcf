"""Floats to blocks, compiled."""
