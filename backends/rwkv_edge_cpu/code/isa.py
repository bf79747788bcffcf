"""Which instructions multiply bytes here. Chosen once, by the CPU that Numba compiles for, or by $RWKV_EDGE_ISA.

Finding out what there is takes LLVM, so it is kept with the code; see `cache` for what that depends on.
"""
import os
import sys
from dataclasses import dataclass
from functools import cache

from rwkv_edge.errors import BackendError
from rwkv_edge_cpu.code import kept
from rwkv_edge_cpu.code.cache import ISA_OVERRIDE as OVERRIDE
from rwkv_edge_cpu.code.processor import AT_HWCAP, AT_HWCAP2, hardware_flags

KEPT_AS = "instruction sets"
ASIMDDP, I8MM = 1 << 20, 1 << 13  # in AT_HWCAP; in AT_HWCAP2

# A dot product that every LLVM since 14 turns into the instruction, where its target has it.
PROBE = """
define i32 @probe(<16 x i8> %x, <16 x i8> %y) {
  %a = sext <16 x i8> %x to <16 x i32>
  %b = sext <16 x i8> %y to <16 x i32>
  %c = mul <16 x i32> %a, %b
  %d = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %c)
  ret i32 %d
}
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
"""
# The same of unsigned and signed bytes: an instruction that comes with products of matrices, for which there is no such text.
MIXED_PROBE = PROBE.replace("%a = sext", "%a = zext")


@dataclass(frozen=True, slots=True)
class Isa:
    """native: sums of four products that one instruction makes.  unsigned: it wants weights from 0 to 255.
    rows, tokens: of a tile."""

    name: str
    native: int
    unsigned: bool
    rows: int
    tokens: int


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512vnni", 16, True, 32, 4),
        Isa("avxvnni", 8, True, 8, 8),
        Isa("avx2", 8, False, 8, 4),
        Isa("neon_i8mm", 4, False, 8, 4),
        Isa("neon_dotprod", 4, False, 8, 4),
        Isa("neon", 4, False, 8, 2),
        Isa("generic", 8, False, 8, 2),
    )
}


@cache
def chosen() -> Isa:
    """Raises BackendError where $RWKV_EDGE_ISA names what is unknown or cannot run here."""
    possible = available()
    wanted = os.environ.get(OVERRIDE) or possible[0]
    if wanted not in ISAS:
        raise BackendError(f"{OVERRIDE}={wanted}: there is no such instruction set; expected one of: {', '.join(ISAS)}")
    if wanted not in possible:
        raise BackendError(f"{OVERRIDE}={wanted}: this machine cannot run it; it can run: {', '.join(possible)}")
    return ISAS[wanted]


@cache
def available() -> tuple[str, ...]:
    """Best first."""
    known = kept.read(KEPT_AS)
    if known is None:
        known = " ".join(_of_this_machine()).encode()
        kept.write(KEPT_AS, known)
    return tuple(known.decode().split(" "))


def _of_this_machine() -> list[str]:
    from numba.core.registry import cpu_target

    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = set(features.split(","))
    names = []
    if triple.startswith(("x86_64", "amd64")):
        if {"+avx512vnni", "+avx512vl", "+avx512bw"} <= enabled:
            names.append("avx512vnni")
        names += [name for name in ("avxvnni", "avx2") if f"+{name}" in enabled]
    elif triple.startswith(("aarch64", "arm64")):
        with_llvm = triple, cpu, features
        names += ["neon_i8mm"] * _has(AT_HWCAP2, I8MM, MIXED_PROBE, "usdot", *with_llvm)
        names += ["neon_dotprod"] * _has(AT_HWCAP, ASIMDDP, PROBE, "sdot", *with_llvm) + ["neon"]
    return [*names, "generic"]


def _has(kind: int, flag: int, probe: str, instruction: str, triple: str, cpu: str, features: str) -> bool:
    """Both must know it: an LLVM target without it ends the process, a core without it too."""
    from llvmlite import binding

    if sys.platform == "linux" and not hardware_flags(kind) & flag:
        return False
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2)
    return f"\t{instruction}\t" in machine.emit_assembly(binding.parse_assembly(probe))
