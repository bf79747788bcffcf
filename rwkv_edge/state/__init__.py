"""What a sequence left in the model: its numbers, and the files that keep them."""
from rwkv_edge.state.state import Holder, State

__all__ = ["Holder", "State"]
