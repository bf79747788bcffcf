"""Where an array's memory comes from."""
import mmap
from typing import Any

from rwkv_edge.weights import Weights
from rwkv_edge.weights.raw import RawFile


def memory_owner(array: Any) -> Any:
    """The object at the end of an array's chain of bases."""
    while True:
        base = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
        if base is None:
            return array
        array = base


def assert_zero_copy(opened: RawFile | Weights) -> None:
    """Every tensor is a read-only view of a memory-mapped file."""
    for name, tensor in opened.tensors.items():
        assert isinstance(memory_owner(tensor.data), mmap.mmap), f"{name} was copied"
        assert not tensor.data.flags.writeable, f"{name} can be written"
