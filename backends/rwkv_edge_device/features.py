"""What a device may have beyond what all have: used where it is there. Kernel files have lines for either case.

    f16         float16 weights are numbers, not bits to take apart
    subgroup    threads of one subgroup add up without shared memory
    packed_dot  four products of signed bytes at once: many tokens' inputs of matrices in codes are rounded to bytes
                (units.wgsl, units.cl). For few tokens memory is what counts, and rounding would cost more than it saves.
                Only where a trial found it faster: languages have it also for devices that take the bytes apart (trial.py)
"""
import os
from collections.abc import Collection, Iterable

from rwkv_edge.errors import BackendError
from rwkv_edge_device.driver import Kernel

FEATURES = ("f16", "subgroup", "packed_dot")
WITHOUT = "RWKV_EDGE_WITHOUT"  # in the environment: features that are left alone, with commas between them
# Kernels need a file of each set; those of no set are of use to all.
ONLY_FOR: dict[str, tuple[set[str], ...]] = {"f16": ({"f16"},), "packed_dot": ({"codes4", "codes8"}, {"tiles"})}


def unwanted() -> list[str]:
    """Raises BackendError for a name that is no feature's."""
    names = [name.strip() for name in os.environ.get(WITHOUT, "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in FEATURES]:
        raise BackendError(f"{WITHOUT} has {unknown[0]!r}; features are {', '.join(FEATURES)}")
    return names


def used(kernel: Kernel, features: Iterable[str]) -> set[str]:
    """Of a device's, those that concern a kernel."""
    return {name for name in features if all(not files.isdisjoint(kernel.files) for files in ONLY_FOR.get(name, ()))}


def with_features(source: str, features: Collection[str]) -> str:
    """Of the lines between `//if NAME` and `//end` those that hold for these features: before `//else`, or behind it."""
    kept, keeps = [], True
    for line in source.splitlines():
        match line.split():
            case ["//if", name]:
                keeps = name in features
            case ["//else"]:
                keeps = not keeps
            case ["//end"]:
                keeps = True
            case _ if keeps:
                kept.append(line)
    return "\n".join(kept)
