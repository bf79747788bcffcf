"""What runs a model up to its head, beside what runs all of it: with the same copies of weights, where a device has some."""
from dataclasses import replace

from rwkv_edge.backend import CompileOptions, Executable, SharesWeights
from rwkv_edge.plan import Plan
from rwkv_edge.strategy.compiling import compiled
from rwkv_edge.strategy.grammar import Strategy
from rwkv_edge.strategy.split import SplitExecutable


def headless(executable: Executable, plan: Plan, strategy: Strategy, threads: int | None) -> Executable:
    """Of what `compiled` has made, which must stay open. Raises BackendError."""
    if isinstance(executable, SharesWeights):
        return executable.beside(without_head(executable.plan))
    if isinstance(executable, SplitExecutable):
        *links, last = executable.links
        if isinstance(last.executable, SharesWeights):
            end = last.executable.beside(without_head(last.executable.plan))
            return SplitExecutable([*links, replace(last, executable=end)])
    return compiled(without_head(plan), strategy, CompileOptions(threads=threads, sparse=False), allocated=True).executable


def without_head(plan: Plan) -> Plan:
    """The same model up to its final norm: the rows that the head's matrix would multiply, [outputs, n_embd]."""
    ops = plan.ops[:-1]
    return replace(plan, ops=ops, buffers=plan.buffers[: ops[-1].out.index + 1], results=(ops[-1].out,))
