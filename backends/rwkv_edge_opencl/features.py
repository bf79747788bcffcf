"""What a device offers of `rwkv_edge_device.features`, and the language version that kernels need for it."""
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

MAX_SUBGROUPS = 0x105C  # CL_DEVICE_MAX_NUM_SUB_GROUPS, since OpenCL 2.1
SUBGROUPS = {"cl_khr_subgroups", "cl_intel_subgroups"}
PROBES = {  # what a device says is not always what its compiler knows: a kernel that it must take
    "subgroup": "kernel void run(global float *x) { x[get_sub_group_id()] = sub_group_reduce_add(x[get_num_sub_groups()]); }",
    "packed_dot": "kernel void run(global uint *x) { x[0] = dot_4x8packed_ss_int(x[1], x[2]); }",
}


def offered(device: Any) -> tuple[str, ...]:
    """What the device says it has."""
    extensions = set(device.extensions.split())
    subgroup = not SUBGROUPS.isdisjoint(extensions) or _max_subgroups(device) > 0
    has = {"subgroup": subgroup, "packed_dot": "cl_khr_integer_dot_product" in extensions}
    return tuple(name for name in PROBES if has[name])


def _max_subgroups(device: Any) -> int:
    import pyopencl as cl

    with suppress(cl.Error):  # an older device does not know the question
        return int(device.get_info(MAX_SUBGROUPS))
    return 0


def standard(device: Any, features: Sequence[str]) -> str:
    """The compiler's option: OpenCL C 1.2, unless features need more."""
    if not features:
        return "-cl-std=CL1.2"
    return "-cl-std=CL3.0" if device.version.startswith("OpenCL 3") else "-cl-std=CL2.0"
