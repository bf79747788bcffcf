"""From an object file of one function, as LLVM writes it (ELF, 64 bits, position-independent), to an image."""
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from rwkv_edge_cpu.code import system
from rwkv_edge_cpu.code.image import Image

X86_64, AARCH64 = 62, 183
PROGBITS, SYMTAB, RELA, NOBITS, X86_UNWIND = 1, 2, 4, 8, 0x70000001
ALLOC = 2
COMMON = 0xFFF2
PAGE = 4096


class LinkError(Exception):
    """The object refers to something that an image cannot have."""


@dataclass(slots=True)
class Section:
    name: str
    kind: int
    flags: int
    link: int
    info: int
    align: int
    data: bytes
    at: int | None = None  # in the image


@dataclass(slots=True)
class Draft:
    """The image while it is made. slots: offset of each called function's address.  stubs: of a jump to it."""

    machine: int
    code: bytearray = field(default_factory=bytearray)
    slots: dict[str, int] = field(default_factory=dict)
    stubs: dict[str, int] = field(default_factory=dict)

    def append(self, data: bytes, align: int) -> int:
        self.code += b"\0" * (-len(self.code) % max(1, align))
        self.code += data
        return len(self.code) - len(data)


def linked(data: bytes, entry: str) -> Image:
    """The image of the object file `data`, whose function is `entry`. Raises LinkError."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise LinkError("not an ELF object of 64 bits, little-endian")
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine not in RELOCATIONS:
        raise LinkError(f"machine {machine}")
    sections = _sections(data)
    draft = Draft(machine)
    for section in sections:
        if section.flags & ALLOC and section.kind == PROGBITS and not section.name.startswith(".eh_frame"):
            section.at = draft.append(section.data, section.align)
    symbols = _symbols(sections)
    relocations = [s for s in sections if s.kind == RELA and sections[s.info].at is not None]
    _make_slots(draft, [symbols[i][0] for s in relocations for _, _, i, _ in _entries(s) if symbols[i][1] == 0])
    for section in relocations:
        base = sections[section.info].at or 0
        for offset, kind, index, addend in _entries(section):
            _relocate(draft, kind, base + offset, symbols[index], sections, addend)
    at = next((sections[section].at, value) for name, section, value in symbols if name == entry)
    return Image(bytes(draft.code), (at[0] or 0) + at[1], tuple(draft.slots))


def _sections(data: bytes) -> list[Section]:
    start, size, count, names = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * i) for i in range(count)]

    def name(offset: int) -> str:
        begin = headers[names][4] + offset
        return data[begin : data.index(b"\0", begin)].decode()

    return [
        Section(name(h[0]), h[1], h[2], h[6], h[7], h[8], b"" if h[1] == NOBITS else data[h[4] : h[4] + h[5]]) for h in headers
    ]


def _symbols(sections: list[Section]) -> list[tuple[str, int, int]]:
    """(name, section, value) of each; section 0: of the system."""
    table = next(s for s in sections if s.kind == SYMTAB)
    strings = sections[table.link].data
    found = []
    for name, _, _, section, value, _ in struct.iter_unpack("<IBBHQQ", table.data):
        found.append((strings[name : strings.index(b"\0", name)].decode(), section, value))
    return found


def _entries(section: Section) -> list[tuple[int, int, int, int]]:
    """(offset, kind, symbol, addend) of each relocation."""
    fields = struct.iter_unpack("<QQq", section.data)
    return [(offset, info & 0xFFFFFFFF, info >> 32, addend) for offset, info, addend in fields]


def _make_slots(draft: Draft, names: list[str]) -> None:
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if not system.known(name)]:
        raise LinkError(f"calls {', '.join(unknown)}")
    for name in wanted:
        draft.stubs[name] = draft.append(bytes(16), 16)
    draft.append(b"", 8)
    for name in wanted:
        draft.slots[name] = draft.append(bytes(8), 8)
        stub, distance = draft.stubs[name], draft.slots[name] - draft.stubs[name]
        if draft.machine == X86_64:  # jmp [rip + distance]
            draft.code[stub : stub + 6] = b"\xff\x25" + struct.pack("<i", distance - 6)
        else:  # ldr x16, distance; br x16
            draft.code[stub : stub + 8] = struct.pack("<II", 0x58000010 | distance // 4 << 5, 0xD61F0200)


def _relocate(
    draft: Draft, kind: int, place: int, symbol: tuple[str, int, int], sections: list[Section], addend: int
) -> None:
    name, section, value = symbol
    if kind not in RELOCATIONS[draft.machine]:
        raise LinkError(f"relocation {kind}")
    through_slot, change = RELOCATIONS[draft.machine][kind]
    if section == 0:
        target = (draft.slots if through_slot else draft.stubs)[name]
    else:
        at = sections[section].at if section < len(sections) else None
        if at is None or through_slot:
            raise LinkError(f"refers to {name or section} by relocation {kind}")
        target = at + value
    change(draft.code, place, target + addend)


Change = Callable[[bytearray, int, int], None]  # of the code at this offset, which refers to that offset


def _relative(code: bytearray, place: int, target: int) -> None:
    struct.pack_into("<i", code, place, target - place)


def _bits(code: bytearray, place: int, value: int, width: int, shift: int) -> None:
    """Put `value` into a field of the instruction."""
    if not -(1 << width) <= value < 1 << width:
        raise LinkError("a reference is too far")
    mask = ((1 << width) - 1) << shift
    word = struct.unpack_from("<I", code, place)[0]
    struct.pack_into("<I", code, place, word & ~mask | value << shift & mask)


def _branch(code: bytearray, place: int, target: int) -> None:
    _bits(code, place, (target - place) >> 2, 26, 0)


def _page(code: bytearray, place: int, target: int) -> None:
    pages = (target // PAGE) - (place // PAGE)
    _bits(code, place, pages & 3, 2, 29)
    _bits(code, place, pages >> 2, 19, 5)


def _in_page(scale: int) -> Change:
    return lambda code, place, target: _bits(code, place, target % PAGE >> scale, 12, 10)


# Kind -> (whether it wants the address of a slot, what it changes). Names in the ABI: R_X86_64_*, R_AARCH64_*.
RELOCATIONS: dict[int, dict[int, tuple[bool, Change]]] = {
    X86_64: {
        2: (False, _relative),  # PC32
        4: (False, _relative),  # PLT32
        9: (True, _relative),  # GOTPCREL
        41: (True, _relative),  # GOTPCRELX
        42: (True, _relative),  # REX_GOTPCRELX
    },
    AARCH64: {
        261: (False, _relative),  # PREL32
        275: (False, _page),  # ADR_PREL_PG_HI21
        277: (False, _in_page(0)),  # ADD_ABS_LO12_NC
        278: (False, _in_page(0)),  # LDST8_ABS_LO12_NC
        282: (False, _branch),  # JUMP26
        283: (False, _branch),  # CALL26
        284: (False, _in_page(1)),  # LDST16_ABS_LO12_NC
        285: (False, _in_page(2)),  # LDST32_ABS_LO12_NC
        286: (False, _in_page(3)),  # LDST64_ABS_LO12_NC
        299: (False, _in_page(4)),  # LDST128_ABS_LO12_NC
        311: (True, _page),  # ADR_GOT_PAGE
        312: (True, _in_page(3)),  # LD64_GOT_LO12_NC
    },
}
