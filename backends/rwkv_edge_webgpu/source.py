"""A kernel's WGSL: its constants, its files, and its own lines where these say so."""
import hashlib
from functools import cache
from pathlib import Path

from rwkv_edge.device.driver import Dialect, Kernel

FILES = Path(__file__).parent / "kernels"
NEEDS = {"codes8": ("codes",), "codes4": ("codes",)}
DIALECT = Dialect(
    let="let {name} = f32({value});",
    let_index="let {name}: u32 = {value};",
    each_channel="for (var c = lane; c < WIDTH; c += LANES) {",
    choose="if (group < {end}u) {{ return Member({numbers}); }}",
    case="case {case}u: {{",
    end_case="}",
)


@cache
def read(name: str) -> str:
    return (FILES / f"{name}.wgsl").read_text(encoding="utf-8")


def assemble(kernel: Kernel) -> str:
    names = ["common", *(each for name in kernel.files for each in (*NEEDS.get(name, ()), name))]
    constants = dict(kernel.constants)
    constants.setdefault("WIDTH", 0)  # of `embedded`, which not all kernels call
    lines = [f"const {name} = {value}u;" for name, value in constants.items()]
    text = "\n".join([*lines, *map(read, names)])
    return text.replace("//CHOOSE", kernel.choose).replace("//BODY", kernel.body)


def sources_digest() -> str:
    """Names the kernel files' text."""
    digest = hashlib.sha256()
    for path in sorted(FILES.glob("*.wgsl")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
