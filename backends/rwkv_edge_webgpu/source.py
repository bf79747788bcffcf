"""WGSL: its kernel files, and the lines of it that kernels are generated from."""
from collections.abc import Collection
from pathlib import Path

from rwkv_edge.device.driver import Dialect, Kernel
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


def text(kernel: Kernel, features: Collection[str]) -> str:
    """features: of the device, as kernel files call them."""
    used = {name for name in features if name != "f16" or "f16" in kernel.files}
    return ("enable f16;\n" if "f16" in used else "") + with_features(SOURCES.assemble(kernel), used)


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
