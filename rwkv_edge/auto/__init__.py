"""What `auto` means here: which backends it tries, fastest first, and who encodes weights.

    rank.py    all backends as they ask to be tried
    speed.py   how fast a device is, measured
    order.py   all backends by that speed, remembered
    choose.py  those that can work here; the encoder
"""
from rwkv_edge.auto.choose import best, candidates, encoder
from rwkv_edge.auto.rank import ranked

__all__ = ["best", "candidates", "encoder", "ranked"]
