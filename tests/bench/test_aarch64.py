"""Inner loops for ARM: which instructions the backend's have, what is counted, and that the C loops compute what ours do."""
import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from numpy.typing import NDArray
from rwkv_edge_cpu import backend as cpu

from rwkv_edge.quant.decode import LAYOUTS, decode_blocks
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge.quant.grids import EVEN_SIGNS, IQ3_S_GRID, IQ3_XXS_GRID, IQ4_LEVELS

if not cpu.availability().available:
    pytest.skip(cpu.availability().reason, allow_module_level=True)

from bench.aarch64 import C_FLAGS, C_SOURCE, our_loop
from bench.aarch64_emit import CORES, Core
from bench.aarch64_listing import INT_PRODUCTS, function_lines, hot_loop, loops

LISTING = """
other:
    b.ne    other
    .size   other, .-other
dot:
    cbz     x2, .L4
.L2:
    ldp     q1, q2, [x0], #32   // a comment
    ldr     q3, [sp, #16]
    movi    v9.16b, 0xfffffffffffffff0
    sdot    v0.4s, v1.16b, v3.16b
    sdot    v0.4s, v2.16b, v4.16b
    subs    x2, x2, #1
    b.ne    .L2
.L3:
    ldrb    w3, [x0], #1
    madd    w4, w3, w5, w4
    mov     w6, w4
    mov     w7, w4
    mov     w8, w4
    mov     w9, w4
    mov     w10, w4
    cbnz    w5, .L3
.L4:
    ret
    b       .L3
    .size   dot, .-dot
"""

A72, A76 = CORES


def test_the_hot_loop_is_found_and_counted() -> None:
    assert [loop.label for loop in loops(LISTING, "dot")] == [".L2", ".L3"]
    loop = hot_loop(LISTING, "dot")
    assert loop.label == ".L2"
    assert loop.instructions[0] == ("ldp", "q1, q2, [x0], #32")
    assert loop.instructions[2] == ("movi", "v9.16b, 0xf0")
    assert (len(loop.instructions), loop.loads, loop.on_stack) == (7, 2, 1)
    assert loop.products(INT_PRODUCTS) == 32
    assert loop.text.splitlines()[:2] == [".L2:", "    ldp     q1, q2, [x0], #32"]


def test_a_function_that_is_not_there_or_has_no_loop() -> None:
    assert function_lines(LISTING, "other") == ["b.ne    other"]
    with pytest.raises(ValueError, match="no function nothing"):
        function_lines(LISTING, "nothing")
    with pytest.raises(ValueError, match="no loop"):
        hot_loop("dot:\n ret", "dot")


@pytest.mark.parametrize("kind", ["row", "few", "tile"])
@pytest.mark.parametrize(("core", "has", "has_not"), [(A76, {"sdot"}, {"smull"}), (A72, {"smull"}, {"sdot"})])
def test_each_core_multiplies_bytes_with_its_own_instructions(core: Core, kind: str, has: set[str], has_not: set[str]) -> None:
    loop, products = our_loop(kind, "q8_0", core)
    names = {name for name, _ in loop.instructions}
    assert has <= names
    assert not has_not & names
    assert products % 32 == 0
    assert core is A76 or names & {"sadalp", "saddlp"}


def test_cores_with_matrix_products_use_them_in_tiles() -> None:
    core = Core("neoverse-v1", "", "neon_i8mm", "neoverse-v1")
    names = [name for name, _ in our_loop("tile", "q8_0", core)[0].instructions]
    assert names.count("smmla") == 32  # of 8 rows, 4 tokens and 32 weights: 32 products each
    assert "sdot" not in names


@pytest.fixture(scope="module")
def c_loops(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or pytest.skip("needs gcc")
    path = tmp_path_factory.mktemp("c") / "loops.so"
    # Linked without the flags: -ffast-math there makes the whole process flush small numbers to zero when the library loads.
    object_file = path.with_suffix(".o")
    subprocess.run([compiler, *C_FLAGS, "-Werror", "-fPIC", "-c", "-o", str(object_file), str(C_SOURCE)], check=True)
    subprocess.run([compiler, "-shared", "-o", str(path), str(object_file)], check=True)
    library = ctypes.CDLL(str(path))
    tables = {"iq4_levels": IQ4_LEVELS, "iq3_xxs_grid": IQ3_XXS_GRID, "iq3_s_grid": IQ3_S_GRID, "even_signs": EVEN_SIGNS}
    for name, values in tables.items():
        data = np.ascontiguousarray(values)
        target = (ctypes.c_char * data.nbytes).in_dll(library, name)
        ctypes.memmove(target, data.ctypes.data, data.nbytes)
    return library


def random_row(format: str, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[1, bytes] of blocks with scales of about 0.01."""
    raw = rng.integers(0, 256, (1, FORMATS[format].row_bytes(n)), np.uint8)
    fields = raw.reshape(-1).view(LAYOUTS[format])
    for name in {"d", "dmin", "m"} & set(fields.dtype.names or ()):
        fields[name] = rng.uniform(-0.01, 0.01, len(fields))
    return raw


@pytest.mark.parametrize("format", [name for name, format in FORMATS.items() if not format.is_float])
def test_the_c_loops_multiply_blocks(c_loops: ctypes.CDLL, format: str) -> None:
    rng, n = np.random.default_rng(0), 1024
    group = 16 if format == "q2_k" else 32
    row, x = random_row(format, n, rng), rng.integers(-127, 128, n, np.int8)
    scales = rng.uniform(0.5, 1, n // 32).astype(np.float32)
    sums = x.reshape(-1, group).sum(axis=1) * np.repeat(scales, 32 // group)
    sums = sums.astype(np.float32)
    function = c_loops[f"dot_{format}"]
    function.restype = ctypes.c_float
    result = function(*(ctypes.c_void_p(a.ctypes.data) for a in (row, x, scales, sums)), ctypes.c_long(n))
    weights = decode_blocks(row, format).astype(np.float64)[0]
    exact = weights * x * np.repeat(scales.astype(np.float64), 32)
    assert abs(result - exact.sum()) <= 1e-5 * np.abs(exact).sum()


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_the_c_loops_multiply_plain_floats(c_loops: ctypes.CDLL, format: str) -> None:
    rng, n = np.random.default_rng(0), 1003
    x, weights = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
    stored = {"f32": weights, "f16": weights.astype(np.float16), "bf16": bits}[format]
    function = c_loops[f"dot_{format}"]
    function.restype = ctypes.c_float
    result = function(ctypes.c_void_p(stored.ctypes.data), ctypes.c_void_p(x.ctypes.data), ctypes.c_long(n))
    assert abs(result - decode_blocks(stored, format, np.float64) @ x) < 1e-3
