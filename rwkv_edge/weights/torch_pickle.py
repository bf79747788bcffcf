"""The pickle inside a PyTorch checkpoint, interpreted by a small stack machine of our own.

Python's own unpickler calls what the file names and allocates what the file says. This one cannot: it knows the
instructions that `torch.save` writes for dictionaries of tensors, the few names in `BUILDERS`, `STORAGE_DTYPES` and
`DTYPES`, and nothing else; a tensor comes out as a description of where its numbers lie. Work and memory grow with the
bytes read, never with a number in them.

Sources: CPython's Lib/pickletools.py for the instructions, torch/serialization.py and torch/_utils.py for what is
pickled.
"""
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rwkv_edge.errors import quoted

MAX_INSTRUCTIONS = 300_000  # about 36 a tensor, and the largest RWKV has 2500
MAX_MARKS = 64  # open brackets; a checkpoint has 4
MAX_INTEGER_BYTES = 9
PERSISTENT_STORAGE_FIELDS = 5  # "storage", class, key, location, number of elements

# storage class -> dtype; of these, pth.py admits the floats.
STORAGE_DTYPES: dict[str, str] = {
    "torch.FloatStorage": "float32", "torch.HalfStorage": "float16", "torch.BFloat16Storage": "bfloat16",
    "torch.DoubleStorage": "float64", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.storage.UntypedStorage": "", "torch.UntypedStorage": "",
}  # fmt: skip
DTYPES: dict[str, str] = {
    f"torch.{name}": name
    for name in (
        "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
        "uint8", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    )
}  # fmt: skip


class PickleRefused(Exception):
    """The pickle is damaged or holds something else than tensors; the message continues "<file>: its pickle ..."."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global the pickle refers to, as "module.name": a key of BUILDERS, STORAGE_DTYPES or DTYPES. Never imported."""

    full: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in the archive. dtype: "" when only bytes are known. size: in elements of dtype, or in bytes."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A strided window on a storage, as pickled: nothing is checked yet but the types. offset, strides: in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]


class Machine:
    """A program of pickle instructions and where it stands."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # one list per open mark: a pop cannot reach below the innermost
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        piece = self.program[self.at : self.at + count]
        if len(piece) < count:
            raise PickleRefused("is cut off")
        self.at += count
        return piece

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        end = self.program.find(b"\n", self.at)
        if end < 0:
            raise PickleRefused("is cut off")
        return self.text(self.take(end - self.at + 1)[:-1])

    @staticmethod
    def text(raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise PickleRefused("has a text that is not UTF-8") from None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise PickleRefused("takes a value that is not there")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise PickleRefused(f"fills a {kind.__name__} that is not there")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        if not self.below:
            raise PickleRefused("closes a bracket that was not opened")
        values, self.stack = self.stack, self.below.pop()
        return values


def interpret(program: bytes) -> Any:
    """What a pickle describes: dict, list, tuple, str, int, float, bool, None or StoredTensor; raises PickleRefused.

    A damaged pickle may also come out as a Name or Storage.
    """
    machine = Machine(program)
    for _ in range(MAX_INSTRUCTIONS):
        code = machine.take(1)[0]
        if code == STOP:
            return machine.pop()
        instruction = INSTRUCTIONS.get(code)
        if instruction is None:
            raise PickleRefused(f"uses instruction 0x{code:02x}, which no checkpoint of tensors needs")
        instruction(machine)
    raise PickleRefused(f"has more than {MAX_INSTRUCTIONS} instructions")


def _protocol(m: Machine) -> None:
    version = m.number(1)
    if version > 5:
        raise PickleRefused(f"has protocol {version}, expected at most 5")


def _frame(m: Machine) -> None:
    """How many bytes to read ahead; nothing is read ahead here."""
    m.take(8)


def _mark(m: Machine) -> None:
    if len(m.below) >= MAX_MARKS:
        raise PickleRefused(f"is nested deeper than {MAX_MARKS} levels")
    m.below.append(m.stack)
    m.stack = []


def _tuple(count: int) -> Callable[[Machine], None]:
    def make(m: Machine) -> None:
        values = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(values)))

    return make


def _counted_text(width: int) -> Callable[[Machine], None]:
    return lambda m: m.push(m.text(m.take(m.number(width))))


def _long(m: Machine) -> None:
    size = m.number(1)
    if size > MAX_INTEGER_BYTES:
        raise PickleRefused(f"has an integer of {size} bytes, expected at most {MAX_INTEGER_BYTES}")
    m.push(m.number(size, signed=True))


def _memo_get(width: int) -> Callable[[Machine], None]:
    def get(m: Machine) -> None:
        index = m.number(width)
        if index not in m.memo:
            raise PickleRefused(f"reads value {index}, which it has not stored")
        m.push(m.memo[index])

    return get


def _memo_put(m: Machine, index: int) -> None:
    value = m.pop()
    m.push(value)
    m.memo[index] = value


def _set_items(m: Machine, items: list[Any]) -> None:
    target = m.top(dict)
    if len(items) % 2:
        raise PickleRefused("has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Exact types: hashing a nested tuple that contains itself twice, many levels deep, would never end.
        if type(key) is not str and type(key) is not int:
            raise PickleRefused(f"has a dictionary key of type {type(key).__name__}, expected a name")
        if key in target:
            raise PickleRefused(f"has two values for {quoted(key)}")
        target[key] = value


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _append(m: Machine, items: list[Any]) -> None:
    m.top(list).extend(items)


def _name(m: Machine, module: Any, name: Any) -> None:
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
    if full not in BUILDERS and full not in STORAGE_DTYPES and full not in DTYPES:
        raise PickleRefused(f"refers to {quoted(full)}, which no checkpoint of tensors needs")
    m.push(Name(full))


def _global(m: Machine) -> None:
    module = m.line()
    _name(m, module, m.line())


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    _name(m, module, name)


def _persistent(m: Machine) -> None:
    reference = m.pop()
    if not isinstance(reference, tuple) or len(reference) != PERSISTENT_STORAGE_FIELDS:
        raise PickleRefused("has a reference that is not to a storage")
    what, kind, key, _, size = reference
    if what != "storage" or not isinstance(kind, Name) or kind.full not in STORAGE_DTYPES:
        raise PickleRefused("has a reference that is not to a storage")
    if not isinstance(key, str) or type(size) is not int:
        raise PickleRefused("has a storage without key or size")
    m.push(Storage(key, STORAGE_DTYPES[kind.full], size))


def _reduce(m: Machine) -> None:
    arguments, target = m.pop(), m.pop()
    builder = BUILDERS.get(target.full) if isinstance(target, Name) else None
    if builder is None or not isinstance(arguments, tuple):
        raise PickleRefused("applies something that builds no tensor")
    m.push(builder(arguments))


def _build(m: Machine) -> None:
    """Attributes of a dictionary (torch keeps version numbers of modules there): not needed."""
    m.pop()
    m.top(dict)


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """torch._utils._rebuild_tensor, _v2: (storage, offset, size, stride, ...); _v3 has a dtype as the seventh."""
    if len(arguments) < 4:
        raise PickleRefused("has a tensor without storage, offset, size and stride")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise PickleRefused("has a tensor without storage or offset")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise PickleRefused("has a tensor without size or stride")
    return StoredTensor(storage, storage.dtype, offset, shape, strides)


def _tensor_v3(arguments: tuple[Any, ...]) -> StoredTensor:
    tensor = _tensor(arguments)
    dtype = arguments[6] if len(arguments) > 6 else None
    if not isinstance(dtype, Name) or dtype.full not in DTYPES or tensor.storage.dtype:
        raise PickleRefused("has a tensor without dtype")
    return StoredTensor(tensor.storage, DTYPES[dtype.full], tensor.offset, tensor.shape, tensor.strides)


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise PickleRefused("has a parameter without tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:
        raise PickleRefused("has an OrderedDict with arguments")
    return {}


BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}

STOP = ord(".")
INSTRUCTIONS: dict[int, Callable[[Machine], None]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("("): _mark,
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.push(m.number(4, signed=True)),
    0x8A: _long,
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("X"): _counted_text(4),
    0x8C: _counted_text(1),
    0x8D: _counted_text(8),
    ord("q"): lambda m: _memo_put(m, m.number(1)),
    ord("r"): lambda m: _memo_put(m, m.number(4)),
    0x94: lambda m: _memo_put(m, len(m.memo)),
    ord("h"): _memo_get(1),
    ord("j"): _memo_get(4),
    ord("s"): _set_item,
    ord("u"): lambda m: _set_items(m, m.since_mark()),
    ord("a"): lambda m: _append(m, [m.pop()]),
    ord("e"): lambda m: _append(m, m.since_mark()),
    ord("c"): _global,
    0x93: _stack_global,
    ord("Q"): _persistent,
    ord("R"): _reduce,
    ord("b"): _build,
}
