"""What an adapter may have beyond what all have: used where it has it. Kernel files have lines for either case (source.py)."""
import os
from collections.abc import Iterable

WITHOUT = "RWKV_EDGE_WEBGPU_WITHOUT"  # in the environment: names of features that are left alone
FEATURES = {  # as wgpu calls them: as kernel files do
    "shader-f16": "f16",  # float16 weights are numbers, not bits to take apart
    "subgroup": "subgroup",  # threads of one subgroup add up without workgroup memory
}


def wanted(offered: Iterable[str]) -> tuple[str, ...]:
    """Of what an adapter offers; wgpu's names."""
    without = os.environ.get(WITHOUT, "").split(",")
    return tuple(name for name in FEATURES if name in offered and name not in without)
