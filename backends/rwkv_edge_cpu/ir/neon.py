"""Tile products on ARM, as LLVM IR: a token's words come 16 bytes at a time, and each is taken out by the multiplication."""
from llvmlite import ir

from rwkv_edge_cpu.code.isa import Isa
from rwkv_edge_cpu.ir.dot import indices, pick
from rwkv_edge_cpu.ir.vector import I8, I16, I32, I64, call, load, offset, vector

NEON = ("neon", "neon_dotprod", "neon_i8mm")
WORDS = 4  # of a token that are loaded at once
BYTES, PAIRS, SUMS = vector(I8, 16), vector(I16, 8), vector(I32, 4)
# The largest code of formats with few bits: sums of several products fit 16 bits. Other formats': 128.
LARGEST = {"q2_k": 3, "q3_k": 7, "iq3_s": 15, "q6_k": 63, "iq3_xxs": 62} | dict.fromkeys(("q4_0", "q4_1", "q4_k"), 15)
LARGEST |= dict.fromkeys(("q5_0", "q5_1", "q5_k"), 31)

Parts = list[ir.Value]  # of one token: sums of four rows each


def add_words(
    b: ir.IRBuilder, isa: Isa, name: str, codes: ir.Value, xs: list[ir.Value], words: int, sums: list[Parts]
) -> None:
    """Add to sums[j] the products of `words` words of each row, at `codes`, with as many of token j, at xs[j].

    codes: of format `name`.  words: a multiple of WORDS.
    """
    if isa.name == "neon_i8mm":
        _add_matrices(b, isa, codes, xs, words, sums)
        return
    together = min(WORDS, 32767 // (2 * LARGEST.get(name, 128) * 127))  # words
    for first in range(0, words, WORDS):
        tokens = [load(b, offset(b, x, 4 * first), BYTES) for x in xs]
        rows = [_rows(b, isa, codes, first + i) for i in range(WORDS)]
        if isa.name == "neon_dotprod":
            _add_dots(b, rows, tokens, sums)
        else:
            _add_long(b, rows, tokens, sums, together)


def _rows(b: ir.IRBuilder, isa: Isa, codes: ir.Value, word: int) -> Parts:
    """A word of each row, four rows in a vector."""
    return [load(b, offset(b, codes, 4 * isa.rows * word + 16 * i), BYTES) for i in range(isa.rows // 4)]


def _word(b: ir.IRBuilder, token: ir.Value, i: int) -> ir.Value:
    """Word i in all lanes."""
    return b.bitcast(pick(b, b.bitcast(token, SUMS), [i] * 4), BYTES)


def opaque(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x, of which LLVM then knows nothing: an assembly text that is empty."""
    return b.call(ir.InlineAsm(ir.FunctionType(x.type, [x.type]), "", "=w,0"), [x])


def _add_dots(b: ir.IRBuilder, rows: list[Parts], tokens: list[ir.Value], sums: list[Parts]) -> None:
    for i, fours in enumerate(rows):
        for token, parts in zip(tokens, sums, strict=True):
            for k, four in enumerate(fours):
                parts[k] = call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", SUMS, parts[k], four, _word(b, token, i))


def _add_matrices(b: ir.IRBuilder, isa: Isa, codes: ir.Value, xs: list[ir.Value], words: int, sums: list[Parts]) -> None:
    """An instruction multiplies two words of two rows with those of two tokens. Codes lie in that order, see ir/tile.py."""
    zero = ir.Constant(SUMS, [0] * 4)
    pairs = range(0, len(xs), 2)
    totals = {(j, k, half): zero for j in pairs for k in range(isa.rows // 4) for half in range(2)}
    for first in range(0, words, WORDS):
        tokens = [b.bitcast(load(b, offset(b, x, 4 * first), BYTES), vector(I64, 2)) for x in xs]
        for i in range(0, WORDS, 2):
            rows = [_rows(b, isa, codes, first + i + word) for word in range(2)]
            for j in pairs:
                two = b.bitcast(interleaved(b, tokens[j], tokens[j + 1], i // 2), BYTES)
                for half, eights in enumerate(rows):
                    for k, eight in enumerate(eights):
                        total = totals[j, k, half]
                        totals[j, k, half] = call(b, "llvm.aarch64.neon.smmla.v4i32.v16i8", SUMS, total, eight, two)
    for j, k, _ in list(totals)[::2]:
        low, high = totals[j, k, 0], totals[j, k, 1]
        for token in range(2):
            of_token = b.shuffle_vector(low, high, indices(range(token, 8, 2)))
            sums[j + token][k] = b.add(sums[j + token][k], of_token)


def interleaved(b: ir.IRBuilder, x: ir.Value, y: ir.Value, half: int) -> ir.Value:
    """The elements of the lower (0) or upper (1) halves of x and y in turn."""
    n = x.type.count
    return b.shuffle_vector(x, y, indices(half * n // 2 + i + n * j for i in range(n // 2) for j in range(2)))


def _add_long(b: ir.IRBuilder, rows: list[Parts], tokens: list[ir.Value], sums: list[Parts], together: int) -> None:
    """Products of `together` words are added as 16 bits.

    LLVM would move chains of additions to their end and keep all that they add in registers; hence `opaque`.
    """
    for first in range(0, WORDS, together):
        chains: list[list[Parts]] = [[[] for _ in parts] for parts in sums]
        for i in range(first, first + together):
            for token, of_token in zip(tokens, chains, strict=True):
                word = opaque(b, _word(b, token, i))  # or LLVM sees that its halves are alike, and does not take smull2
                for k, four in enumerate(rows[i]):
                    products = _long_products(b, four, word)
                    if of_token[k]:
                        products = [opaque(b, b.add(x, y)) for x, y in zip(of_token[k], products, strict=True)]
                    of_token[k] = products
        for of_token, parts in zip(chains, sums, strict=True):
            for k, products in enumerate(of_token):
                fours = call(b, "llvm.aarch64.neon.addp.v8i16", PAIRS, *products)
                parts[k] = opaque(b, b.add(parts[k], call(b, "llvm.aarch64.neon.saddlp.v4i32.v8i16", SUMS, fours)))


def _long_products(b: ir.IRBuilder, weights: ir.Value, x: ir.Value) -> list[ir.Value]:
    halves = (range(8), range(8, 16))
    return [call(b, "llvm.aarch64.neon.smull.v8i16", PAIRS, pick(b, weights, half), pick(b, x, half)) for half in halves]
