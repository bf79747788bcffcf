"""Measurements of speed and memory, ours beside the peers'; each module that has a `main` is a command.

They run from the repository root: `python -m bench.decode FILE`. The peers are in the extra: `pip install -e .[bench]`.
"""
