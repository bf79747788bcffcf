"""The version of rwkv_edge."""
__version__ = "0.1.0"
