"""WGSL: its kernel files, and the lines of it that kernels are generated from."""
from collections.abc import Collection
from pathlib import Path

from rwkv_edge_device.driver import Dialect, Kernel
from rwkv_edge_device.features import used, with_features
from rwkv_edge_device.source import Sources

SOURCES = Sources(
    folder=Path(__file__).parent / "kernels",
    ending="wgsl",
    constant="const {name} = {value}u;",
    needs={
        "f32": ("units",), "f16": ("units",), "bf16": ("units",), "codes8": ("units", "codes"), "codes4": ("units", "codes"),
    },
)
DIALECT = Dialect(
    let="let {name} = f32({value});",
    let_index="let {name}: u32 = {value};",
    each_channel="for (var c = lane; c < WIDTH; c += LANES) {",
    choose="if (group < {end}u) {{ return Member({numbers}); }}",
    case="case {case}u: {{",
    end_case="}",
)


def text(kernel: Kernel, features: Collection[str]) -> str:
    """features: of the device."""
    enabled = used(kernel, features)
    return ("enable f16;\n" if "f16" in enabled else "") + with_features(SOURCES.assemble(kernel), enabled)
