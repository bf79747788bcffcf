"""OpenCL C 1.2: its kernel files, and the lines of it that kernels are generated from."""
from collections.abc import Collection
from pathlib import Path

from rwkv_edge_device.driver import Dialect, Kernel
from rwkv_edge_device.features import used, with_features
from rwkv_edge_device.source import Sources

SOURCES = Sources(
    folder=Path(__file__).parent / "kernels",
    ending="cl",
    constant="#define {name} {value}u",
    needs={
        "matmul": ("units",),
        "codes8": ("codes",), "codes4": ("codes",),
        "wkv4": ("parts",), "wkv6": ("parts",), "wkv7": ("parts",), "stateless": ("parts",),
    },
)
DIALECT = Dialect(
    let="const float {name} = {value};",
    let_index="const uint {name} = {value};",
    each_channel="for (uint c = lane; c < WIDTH; c += LANES) {",
    choose="if (group < {end}u) return (Member){{{numbers}}};",
    case="case {case}u: {{",
    end_case="break; }",
)


def text(kernel: Kernel, features: Collection[str]) -> str:
    """features: of the device."""
    return with_features(SOURCES.assemble(kernel), used(kernel, features))
