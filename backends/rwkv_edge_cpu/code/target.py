"""What compiled code is made for: one of a machine's instruction sets, and its processor as LLVM knows it.

Everything that makes code, or memory that code reads, is given a `Target`. `chosen` is this machine's, by its processor or by
$RWKV_EDGE_ISA. Finding out what there is takes LLVM, so it is kept with the code; see `cache` for what that depends on.
"""
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from rwkv_edge.errors import BackendError
from rwkv_edge_cpu.code import kept
from rwkv_edge_cpu.code.isa import ISAS, Isa
from rwkv_edge_cpu.code.processor import AT_HWCAP, AT_HWCAP2, hardware_flags

OVERRIDE = "RWKV_EDGE_ISA"
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
# Of x86, by the bytes in a vector: the feature that looks each up in the table of 16 that stands where it stands, and how.
X86_SHUFFLES = {16: ("ssse3", "ssse3.pshuf.b.128"), 32: ("avx2", "avx2.pshuf.b"), 64: ("avx512bw", "avx512.pshuf.b.512")}


@dataclass(frozen=True, slots=True)
class Target:
    """isa: which instructions multiply bytes.  triple, processor, features: LLVM's, as it writes them."""

    isa: Isa
    triple: str
    processor: str
    features: str

    def has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "amd64"))

    @property
    def is_arm(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    @property
    def lanes(self) -> int:
        """Floats in a vector register."""
        return 16 if self.has("avx512f") else 8 if self.has("avx") else 4

    @property
    def plain_tokens(self) -> int:
        """Columns of a tile of plain floats: what the registers hold."""
        return 4 if self.is_arm or self.has("avx512f") else 3

    @property
    def halves(self) -> bool:
        """float16 conversion instructions exist."""
        return self.is_arm or self.has("f16c")

    @property
    def scalar_halves(self) -> bool:
        """One at a time costs less than a vector of them."""
        return self.is_arm

    @property
    def byte_shuffles(self) -> Mapping[int, str]:
        """For 16 bytes and more, the function that looks each up in the table of 16 that stands where it stands."""
        if self.is_arm:
            return {16: "llvm.aarch64.neon.tbl1.v16i8"}
        return {n: f"llvm.x86.{function}" for n, (feature, function) in X86_SHUFFLES.items() if self.has(feature)}

    @property
    def wide_tables(self) -> bool:
        """Instructions exist that look 64 bytes up in a table of 64 or 128 (AVX-512 VBMI)."""
        return self.has("avx512f") and self.has("avx512vbmi")


def chosen() -> Target:
    """Raises BackendError where $RWKV_EDGE_ISA names what is unknown or cannot run here."""
    possible = available()
    wanted = os.environ.get(OVERRIDE)
    if not wanted:
        return next(iter(possible.values()))
    if wanted not in ISAS:
        raise BackendError(f"{OVERRIDE}={wanted}: there is no such instruction set; expected one of: {', '.join(ISAS)}")
    if wanted not in possible:
        raise BackendError(f"{OVERRIDE}={wanted}: this machine cannot run it; it can run: {', '.join(possible)}")
    return possible[wanted]


@cache
def available() -> Mapping[str, Target]:
    """By the names of their instruction sets, best first."""
    known = kept.read(KEPT_AS)
    if known is None:
        known = "\n".join(_of_this_machine()).encode()
        kept.write(KEPT_AS, known)
    triple, processor, features, *names = known.decode().split("\n")
    return {name: Target(ISAS[name], triple, processor, features) for name in names}


def _of_this_machine() -> list[str]:
    """LLVM's triple, processor and features, then the names of the instruction sets, best first."""
    from numba.core.registry import cpu_target

    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    base = Target(ISAS["generic"], triple, processor, features)
    names = []
    if base.is_x86:
        names += ["avx512vnni"] * all(map(base.has, ("avx512vnni", "avx512vl", "avx512bw")))
        names += filter(base.has, ("avxvnni", "avx2"))
    elif base.is_arm:
        names += ["neon_i8mm"] * _multiplies(base, AT_HWCAP2, I8MM, MIXED_PROBE, "usdot")
        names += ["neon_dotprod"] * _multiplies(base, AT_HWCAP, ASIMDDP, PROBE, "sdot") + ["neon"]
    return [triple, processor, features, *names, base.isa.name]


def _multiplies(cpu: Target, kind: int, flag: int, probe: str, instruction: str) -> bool:
    """Both must know it: an LLVM target without it ends the process, a core without it too."""
    from llvmlite import binding

    if sys.platform == "linux" and not hardware_flags(kind) & flag:
        return False
    machine = binding.Target.from_triple(cpu.triple).create_target_machine(cpu=cpu.processor, features=cpu.features, opt=2)
    return f"\t{instruction}\t" in machine.emit_assembly(binding.parse_assembly(probe))
