"""WGSL: its kernel files, and the lines of it that kernels are generated from."""
from pathlib import Path

from rwkv_edge.device.driver import Dialect
from rwkv_edge.device.source import Sources

SOURCES = Sources(
    folder=Path(__file__).parent / "kernels",
    ending="wgsl",
    constant="const {name} = {value}u;",
    needs={"codes8": ("codes",), "codes4": ("codes",)},
)
DIALECT = Dialect(
    let="let {name} = f32({value});",
    let_index="let {name}: u32 = {value};",
    each_channel="for (var c = lane; c < WIDTH; c += LANES) {",
    choose="if (group < {end}u) {{ return Member({numbers}); }}",
    case="case {case}u: {{",
    end_case="}",
)
