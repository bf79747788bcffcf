"""What an adapter offers of `rwkv_edge_device.features`."""
from collections.abc import Iterable

NAMES = {"shader-f16": "f16", "subgroup": "subgroup"}  # wgpu's for what an adapter may lack, and ours
LANGUAGE = ("packed_dot",)  # part of WGSL: wgpu finds other instructions where the adapter has none for it


def offered(names: Iterable[str]) -> tuple[str, ...]:
    """names: wgpu's, of an adapter's features."""
    given = set(names)
    return (*(ours for theirs, ours in NAMES.items() if theirs in given), *LANGUAGE)


def required(features: Iterable[str]) -> list[str]:
    """wgpu's names of those that a device must be asked for."""
    return [theirs for theirs, ours in NAMES.items() if ours in features]
