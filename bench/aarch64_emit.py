"""Assembly of the CPU backend's inner loops for a given ARM core, on any host: LLVM makes it, nothing runs."""
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from rwkv_edge_cpu.code.isa import ISAS
from rwkv_edge_cpu.code.jit import REDUCTION
from rwkv_edge_cpu.code.target import Target
from rwkv_edge_cpu.ir.plain import plain_dots
from rwkv_edge_cpu.ir.quantized import BLOCKS
from rwkv_edge_cpu.ir.row import block_dot, block_dots
from rwkv_edge_cpu.ir.tile import block_tile
from rwkv_edge_cpu.ir.vector import PLAIN

TRIPLE = "aarch64-linux-gnu"
LLVM_TYPES = {types.int64: ir.IntType(64), types.float32: ir.FloatType(), types.void: ir.VoidType()}
FORMATS = (*PLAIN, *BLOCKS)


@dataclass(frozen=True, slots=True)
class Core:
    """name: LLVM's and GCC's.  isa: what the backend chooses there.  model: the core whose timing llvm-mca knows."""

    name: str
    title: str
    isa: str
    model: str

    @property
    def target(self) -> Target:
        return Target(ISAS[self.isa], TRIPLE, self.name, "")


CORES = (
    Core("cortex-a72", "Cortex-A72 (Raspberry Pi 4)", "neon", "cortex-a72"),
    # LLVM has no timing of the A76 and takes the A57's; the Neoverse N1 is the same core for servers.
    Core("cortex-a76", "Cortex-A76 (Raspberry Pi 5)", "neon_dotprod", "neoverse-n1"),
)


class _Context:
    """What the backend's intrinsics ask of Numba's target context."""

    def get_dummy_value(self) -> None:
        return None


def _machine(core: Core) -> Any:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding.Target.from_triple(TRIPLE).create_target_machine(cpu=core.name, opt=3)


def assembly(intrinsic: Any, core: Core) -> str:
    """The intrinsic as a function of its own, optimised as Numba does."""
    kinds, codegen = intrinsic._defn(*[None] * len(signature(intrinsic._defn).parameters))
    machine = _machine(core)
    module = ir.Module("inner_loop")
    module.triple, module.data_layout = TRIPLE, str(machine.target_data)
    kind = ir.FunctionType(LLVM_TYPES[kinds.return_type], [LLVM_TYPES[argument] for argument in kinds.args])
    function = ir.Function(module, kind, "inner_loop")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    builder._fastmathflags = sorted(REDUCTION)
    result = codegen(_Context(), builder, kinds, list(function.args))
    builder.ret_void() if result is None else builder.ret(result)
    return str(machine.emit_assembly(_optimised(module, machine)))


def _optimised(module: ir.Module, machine: Any) -> Any:
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    options = binding.PipelineTuningOptions(speed_level=int(config.OPT))
    options.loop_vectorization, options.slp_vectorization = bool(config.LOOP_VECTORIZE), bool(config.SLP_VECTORIZE)
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


LOOPS: dict[str, Callable[[Target, str], Any]] = {"row": block_dot, "few": block_dots, "tile": block_tile}


def loop_assembly(loop: str, format: str, core: Core) -> str:
    """loop: "row": weights times one activation row; "few": times a few; "tile": unpacked weights times many."""
    return assembly((plain_dots if format in PLAIN else LOOPS[loop])(core.target, format), core)
