"""The CPU backend's inner loops for the Raspberry Pi 4 and 5, listed and counted on any host, next to plain C loops.

    python -m bench.aarch64 [--formats q8_0,q4_k] [--listings q8_0,q4_0,q4_k,q6_k] [--cc COMPILER] [--save]

Nothing is run: cycles are llvm-mca's, with all data in the first cache. `row` loops multiply a row of weights with one
activation row, `few` loops one or two rows of weights with a few, `tile` loops unpacked weights with many. C:
bench/aarch64_loops.c.
"""
import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite
from llvmlite import binding

from bench.aarch64_emit import CORES, FORMATS, Core, loop_assembly
from bench.aarch64_listing import FLOAT_PRODUCTS, INT_PRODUCTS, Loop, cycles, hot_loop, mca
from bench.table import Row, publish, render
from rwkv_edge.quant.formats import FORMATS as SIZES

LEGEND = (
    "instr, loads: instructions, and loads among them, of the hot loop; stack: loads and stores of values that did not fit the"
    " registers; cycles: llvm-mca's of the loop again and again, without branch and cache misses. It knows 3 micro-operations a"
    " cycle for either core; the A76 takes more. C: the same products written plainly (bench/aarch64_loops.c)."
)
C_SOURCE = Path(__file__).parent / "aarch64_loops.c"
C_COMPILERS = ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-gcc-12")
C_FLAGS = ("-O3", "-ffast-math", "-Wall", "-Wno-parentheses", "-Wno-unused-parameter")


@dataclass(frozen=True, slots=True)
class Count:
    """Of a loop, for every 32 products; cycles: None where llvm-mca is not here."""

    instructions: float
    loads: float
    on_stack: float
    cycles: float | None


def count(loop: Loop, products: int, core: Core) -> Count:
    share = 32 / products
    took = cycles(loop, core.model)
    numbers = (len(loop.instructions) * share, loop.loads * share, loop.on_stack * share)
    return Count(*numbers, None if took is None else took * share)


def our_loop(kind: str, format: str, core: Core) -> tuple[Loop, int]:
    """(the loop, its products in one iteration)."""
    loop = hot_loop(loop_assembly(kind, format, core), "inner_loop")
    products = loop.products(FLOAT_PRODUCTS if SIZES[format].is_float else INT_PRODUCTS)
    if not products or products % 16:
        raise ValueError(f"{format} {kind}, {core.name}: {products} products in the loop")
    return loop, products


@cache
def c_listing(compiler: str, core: Core) -> str:
    call = [compiler, *C_FLAGS, f"-mcpu={core.name}", "-S", "-o", "-", str(C_SOURCE)]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


def c_loop(compiler: str, format: str, core: Core) -> tuple[Loop, int]:
    """(the loop, its products in one iteration): of plain weights a vector or a few, else of one block."""
    loop = hot_loop(c_listing(compiler, core), f"dot_{format}")
    return loop, loop.products(FLOAT_PRODUCTS) if SIZES[format].is_float else SIZES[format].block_size


def row_line(format: str, core: Core, compiler: str | None) -> Row:
    ours = count(*our_loop("row", format, core), core)
    nbytes = SIZES[format].row_bytes(256) / 8  # of 32 weights
    line: Row = {"format": format, "instr": ours.instructions, "loads": ours.loads, "stack": ours.on_stack}
    line |= {"cycles": ours.cycles, "cycles/B": ours.cycles and ours.cycles / nbytes}
    if compiler is not None:
        plain = count(*c_loop(compiler, format, core), core)
        line |= {"C instr": plain.instructions, "C loads": plain.loads, "C stack": plain.on_stack, "C cycles": plain.cycles}
        line |= {"C cycles/B": plain.cycles and plain.cycles / nbytes}
        line |= {"C / ours": plain.cycles and ours.cycles and plain.cycles / ours.cycles}
    return line


def several_line(kind: str, format: str, core: Core) -> Row:
    """Of loops for several activation rows."""
    ours = count(*our_loop(kind, format, core), core)
    line: Row = {"format": format, "instr": ours.instructions, "loads": ours.loads, "stack": ours.on_stack}
    return line | {"cycles": ours.cycles, "products/cycle": ours.cycles and 32 / ours.cycles}


def section(core: Core, formats: list[str], listed: list[str], compiler: str | None) -> list[str]:
    blocks = [format for format in formats if not SIZES[format].is_float]
    parts = [f"## {core.title}", f"Instructions: `{core.isa}`; timing model: `{core.model}`."]
    parts += ["Row products, for every 32 weights:", render([row_line(format, core, compiler) for format in formats])]
    if blocks:
        titles = {"few": "Rows times a few activation rows, for every 32 products:", "tile": "Tiles, for every 32 products:"}
        for kind, title in titles.items():
            parts += [title, render([several_line(kind, format, core) for format in blocks])]
    for kind, format in [("row", format) for format in listed] + [("tile", format) for format in listed[:1]]:
        loop, products = our_loop(kind, format, core)
        parts += [f"### {core.name}: {format} {kind}, {products} products", f"```\n{loop.text}\n```"]
    return parts


def versions(compiler: str | None) -> str:
    made = f"LLVM {'.'.join(map(str, binding.llvm_version_info))} (llvmlite {llvmlite.__version__})"
    timed = _first_line(str(mca()), "LLVM version") if mca() else "no llvm-mca: no cycles"
    plain = f"{_first_line(compiler, '')} {' '.join(C_FLAGS[:2])}" if compiler else "no C compiler for aarch64: ours alone"
    return f"Ours: {made}. Cycles: {mca() or ''} {timed}. C: {plain}."


def _first_line(command: str, having: str) -> str:
    text = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in text.splitlines() if having in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--listings", default="q8_0,q4_0,q4_k,q6_k", help="formats whose loops are printed, too")
    parser.add_argument("--cc", default=next(filter(shutil.which, C_COMPILERS), None), help="a C compiler for aarch64")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    chosen = parser.parse_args()
    listed = [format for format in chosen.listings.split(",") if format]
    parts = [versions(chosen.cc), LEGEND]
    for core in CORES:
        print(f"{core.name} ...", file=sys.stderr, flush=True)
        parts += section(core, chosen.formats.split(","), listed, chosen.cc)
    publish("aarch64", parts, chosen.save)


if __name__ == "__main__":
    main()
