"""The integer product that all block formats share: four bytes times four bytes, added to an int32, in every lane."""
from collections.abc import Iterable

from llvmlite import ir

from rwkv_edge_cpu.code.isa import Isa
from rwkv_edge_cpu.ir.vector import I16, I32, call, constant, vector


def indices(numbers: Iterable[int]) -> ir.Constant:
    places = list(numbers)
    return ir.Constant(vector(I32, len(places)), places)


def pick(b: ir.IRBuilder, x: ir.Value, numbers: Iterable[int]) -> ir.Value:
    """The elements of x at these positions."""
    return b.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), indices(numbers))


def join(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.shuffle_vector(x, y, indices(range(2 * x.type.count)))


def dot(b: ir.IRBuilder, isa: Isa, start: ir.Value, weights: ir.Value, x: ir.Value, small: bool = False) -> ir.Value:
    """start[i] + the sum over four bytes j of weights[4 i + j] * x[4 i + j].

    x from -127 to 127. Weights are unsigned where isa.unsigned says so, else signed; small: from 0 to 127.
    With "neon", the sums of each 16 bytes lie in their four lanes in another way.
    """
    n = start.type.count
    if n > isa.native:
        parts = []
        for half in range(2):
            lanes, bytes_ = range(half * n // 2, (half + 1) * n // 2), range(half * 2 * n, (half + 1) * 2 * n)
            parts.append(dot(b, isa, pick(b, start, lanes), pick(b, weights, bytes_), pick(b, x, bytes_), small))
        return join(b, *parts)
    if isa.unsigned:
        kind = vector(I32, n)  # the operands' older types, which every LLVM still takes
        return call(b, f"llvm.x86.avx512.vpdpbusd.{32 * n}", kind, start, b.bitcast(weights, kind), b.bitcast(x, kind))
    if isa.name == "avx2" and small:
        return _pairs(b, start, weights, x)
    kinds = {"avx2": _avx2, "neon_i8mm": _sdot, "neon_dotprod": _sdot, "neon": _smull}
    return kinds.get(isa.name, _generic)(b, start, weights, x)


def _avx2(b: ir.IRBuilder, start: ir.Value, weights: ir.Value, x: ir.Value) -> ir.Value:
    """|weight| * (x with the weight's sign)."""
    return _pairs(b, start, _absolute(b, weights), _call(b, "psign.b", x.type, x, weights))


def _pairs(b: ir.IRBuilder, start: ir.Value, weights: ir.Value, x: ir.Value) -> ir.Value:
    """Weights from 0 to 128. Pairs stay within 2 * 128 * 127, so the instruction does not saturate."""
    pairs = _call(b, "pmadd.ub.sw", vector(I16, 2 * start.type.count), weights, x)
    return b.add(start, _call(b, "pmadd.wd", start.type, pairs, constant(pairs.type, 1)))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Of AVX2, or of what came before it where four sums are made."""
    if result.element.width * result.count == 256:
        return call(b, f"llvm.x86.avx2.{name}", result, *args)
    return call(b, f"llvm.x86.sse2.{name}" if name == "pmadd.wd" else f"llvm.x86.ssse3.{name}.128", result, *args)


def _absolute(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    zero = constant(x.type, 0)
    return b.select(b.icmp_signed("<", x, zero), b.sub(zero, x), x)


def _sdot(b: ir.IRBuilder, start: ir.Value, weights: ir.Value, x: ir.Value) -> ir.Value:
    return call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", start.type, start, weights, x)


def _smull(b: ir.IRBuilder, start: ir.Value, weights: ir.Value, x: ir.Value) -> ir.Value:
    """Bytes i and i + 8 are multiplied and added as 16 bits, 2 * 128 * 127 at most, then neighbours: three instructions."""
    halves = (range(8), range(8, 16))
    low, high = (
        call(b, "llvm.aarch64.neon.smull.v8i16", vector(I16, 8), pick(b, weights, half), pick(b, x, half)) for half in halves
    )
    return b.add(start, call(b, "llvm.aarch64.neon.saddlp.v4i32.v8i16", start.type, b.add(low, high)))


def _generic(b: ir.IRBuilder, start: ir.Value, weights: ir.Value, x: ir.Value) -> ir.Value:
    n = start.type.count
    products = b.mul(b.sext(weights, vector(I16, 4 * n)), b.sext(x, vector(I16, 4 * n)))
    total = start
    for j in range(4):
        total = b.add(total, b.sext(pick(b, products, range(j, 4 * n, 4)), vector(I32, n)))
    return total
