"""Machine code of our own loading: constants, calls of the system, and what is refused."""
import ctypes

import numpy as np
import pytest
from rwkv_edge_cpu import backend

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)

FILL = """
define i64 @entry(ptr %p, i64 %n) {
  call void @llvm.memset.p0.i64(ptr %p, i8 7, i64 %n, i1 false)
  ret i64 %n
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
CONSTANTS = """
@table = private constant [4 x i64] [i64 10, i64 200, i64 3000, i64 40000]
define i64 @other(i64 %i) noinline {
  %at = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %x = load i64, ptr %at
  ret i64 %x
}
define i64 @entry(i64 %i, double %y) {
  %x = call i64 @other(i64 %i)
  %z = fadd double %y, 1.25
  %w = fptosi double %z to i64
  %s = add i64 %x, %w
  ret i64 %s
}
"""
UNKNOWN = "define i64 @entry() { %x = call i64 @PyLong_AsLong() ret i64 %x } declare i64 @PyLong_AsLong()"
VARIABLE = "@v = internal global i64 0 define i64 @entry() { store volatile i64 1, ptr @v ret i64 0 }"


def object_of(text: str) -> bytes:
    from llvmlite import binding
    from rwkv_edge_cpu.code.jit import elf_machine
    from rwkv_edge_cpu.code.target import chosen

    triple, machine = elf_machine(chosen())
    module = binding.parse_assembly(text)
    module.triple, module.data_layout = triple, str(machine.target_data)
    return bytes(machine.emit_object(module))


def test_a_function_of_the_system_is_called() -> None:
    from rwkv_edge_cpu.code.image import Image
    from rwkv_edge_cpu.code.link import linked

    image = linked(object_of(FILL), "entry")
    assert image.slots == ("memset",)
    assert Image.from_bytes(image.to_bytes()) == image
    fill = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(image.load())
    data = np.zeros(100, np.uint8)
    assert fill(data.ctypes.data, 90) == 90
    assert data.sum() == 7 * 90


def test_constants_and_a_second_function_are_found_wherever_the_image_lies() -> None:
    from rwkv_edge_cpu.code.link import linked

    image = linked(object_of(CONSTANTS), "entry")
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_double)
    for _ in range(3):
        entry = kind(image.load())
        assert [entry(i, 0.75) for i in range(4)] == [12, 202, 3002, 40002]


@pytest.mark.parametrize("text", [UNKNOWN, VARIABLE])
def test_what_an_image_cannot_have_is_refused(text: str) -> None:
    from rwkv_edge_cpu.code.link import LinkError, linked

    with pytest.raises(LinkError):
        linked(object_of(text), "entry")


def test_what_is_no_object_is_refused() -> None:
    from rwkv_edge_cpu.code.link import LinkError, linked

    with pytest.raises(LinkError):
        linked(b"\0" * 100, "entry")
